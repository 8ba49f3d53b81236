//! The way to a room, whoever sits there now.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;

use actix::MailboxError;
use actix::dev::RecipientRequest;
use actix::prelude::*;

/// Takes one kind of message to a room. Clones lead to the same place, and when the room is built anew
/// all of them lead to the new one. Where nobody sits, a message finds the mailbox closed.
pub struct Line<M: Message + Send + 'static>
where
    M::Result: Send,
{
    to: Rc<RefCell<Option<Recipient<M>>>>,
}

impl<M: Message + Send + 'static> Line<M>
where
    M::Result: Send,
{
    /// A line that leads to nobody yet.
    pub fn new() -> Line<M> {
        Line { to: Rc::default() }
    }

    /// A line that leads here.
    pub fn to(recipient: Recipient<M>) -> Line<M> {
        let line = Line::new();
        line.lead(recipient);
        line
    }

    /// Leads here from now on.
    pub fn lead(&self, recipient: Recipient<M>) {
        self.to.replace(Some(recipient));
    }

    /// Leads to nobody from now on.
    pub fn cut(&self) {
        self.to.replace(None);
    }

    /// Queues the message at once, so that messages arrive in the order of these calls; answers what the
    /// room answers. Dropping the future before the message is dealt with takes it back.
    ///
    /// # Errors
    /// Where nobody is there, or the room ends before it has answered.
    pub fn send(&self, message: M) -> impl Future<Output = Result<M::Result, MailboxError>> + use<M> {
        let sent: Option<RecipientRequest<M>> = self.to.borrow().as_ref().map(|to| to.send(message));
        async move {
            match sent {
                Some(sent) => sent.await,
                None => Err(MailboxError::Closed),
            }
        }
    }

    /// Sends a hint that may be lost.
    pub fn hint(&self, message: M) {
        if let Some(to) = &*self.to.borrow() {
            to.do_send(message);
        }
    }
}

impl<M: Message + Send + 'static> Default for Line<M>
where
    M::Result: Send,
{
    fn default() -> Self {
        Line::new()
    }
}

impl<M: Message + Send + 'static> Clone for Line<M>
where
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Line { to: self.to.clone() }
    }
}

impl<M: Message + Send + 'static> fmt::Debug for Line<M>
where
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Who;

    struct Named(u32);

    impl Actor for Named {
        type Context = Context<Self>;
    }

    impl Handler<Who> for Named {
        type Result = u32;

        fn handle(&mut self, _: Who, _: &mut Self::Context) -> u32 {
            self.0
        }
    }

    #[actix::test]
    async fn every_clone_leads_to_whoever_sits_there_now() {
        let line = Line::new();
        let clone = line.clone();
        assert_eq!(clone.send(Who).await, Err(MailboxError::Closed));
        line.lead(Named(1).start().recipient());
        assert_eq!(clone.send(Who).await, Ok(1));
        line.lead(Named(2).start().recipient());
        assert_eq!(clone.send(Who).await, Ok(2));
        clone.cut();
        assert_eq!(line.send(Who).await, Err(MailboxError::Closed));
    }
}
