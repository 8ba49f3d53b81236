//! A socket that is left alone for a while.
//!
//! A socket that a runtime watches wakes its thread whenever something comes, whether anybody reads it or not. In a lull it is
//! not watched: what comes stays with the system, and is read at the next [beat](crate::clock::beat), when the thread is awake anyway.

use std::cell::Cell;
use std::io::{self, Read};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_tls::connect::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::clock::{self, BEAT};

/// Of so many bytes more is behind them, so they are followed without waiting for a beat.
const BURST_BYTES: usize = 16 * 1024;

/// Has all sockets of one client read at beats only, for a while. Clones are one.
#[derive(Clone, Debug)]
pub struct Lull {
    end: Rc<Cell<Option<Instant>>>,
    next_beat: fn() -> Instant,
}

impl Default for Lull {
    fn default() -> Lull {
        Lull { end: Rc::default(), next_beat: || clock::next_beat(BEAT) }
    }
}

impl Lull {
    /// Up to this time. A socket begins with it when nothing is left to read, and reads all that has come at each beat. What is
    /// written goes out at once.
    pub fn until(&self, time: Instant) {
        self.end.set(Some(time));
    }

    /// It is over for whoever reads next.
    pub fn end(&self) {
        self.end.set(None);
    }

    /// When to read next, if not as soon as something comes.
    pub(super) fn next(&self) -> Option<Instant> {
        let end = self.end.get()?;
        Some((self.next_beat)()).filter(|next| *next <= end)
    }
}

/// Such a socket.
#[derive(Debug)]
pub struct Lulled {
    socket: Socket,
    lull: Lull,
    /// Up to the next beat of a lull.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Bytes read since nothing was left.
    read_bytes: usize,
    /// What was there when it was last read to its end was one.
    is_burst: bool,
    /// Somebody waits for room to write, and is told of it by the runtime alone.
    write_waits: bool,
}

#[derive(Debug)]
enum Socket {
    Watched(TcpStream),
    Unwatched(std::net::TcpStream),
    /// The runtime would not let it go or take it back.
    Gone,
}

impl Lulled {
    /// A connection whose socket keeps these lulls.
    pub fn around<R>(connection: Connection<R, TcpStream>, lull: Lull) -> Connection<R, Lulled> {
        let nothing = Lulled::of(Socket::Gone, lull);
        let (socket, mut connection) = connection.replace_io(nothing);
        connection.io_mut().socket = Socket::Watched(socket);
        connection
    }

    fn of(socket: Socket, lull: Lull) -> Lulled {
        Lulled { socket, lull, sleep: None, read_bytes: 0, is_burst: false, write_waits: false }
    }

    fn unwatch(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Watched(socket) => Socket::Unwatched(socket.into_std()?),
            other => other,
        };
        Ok(())
    }

    /// The socket, watched again if it was not.
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Socket::Unwatched(_) = self.socket
            && let Socket::Unwatched(socket) = std::mem::replace(&mut self.socket, Socket::Gone)
        {
            self.socket = Socket::Watched(TcpStream::from_std(socket)?);
        }
        match &mut self.socket {
            Socket::Watched(socket) => Ok(Pin::new(socket)),
            Socket::Unwatched(_) | Socket::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// What is there. Where that is nothing, only a watched socket wakes somebody later.
    fn look(&mut self, ctx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Socket::Unwatched(socket) = &mut self.socket else { return self.watched()?.poll_read(ctx, into) };
        loop {
            return match socket.read(into.initialize_unfilled()) {
                Ok(length) => {
                    into.advance(length);
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
    }
}

impl AsyncRead for Lulled {
    fn poll_read(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let next = this.lull.next();
            if next.is_none() {
                this.sleep = None;
            }
            if let Some(sleep) = &mut this.sleep {
                std::task::ready!(sleep.as_mut().poll(ctx));
                this.sleep = None;
            }
            let before = into.filled().len();
            if let Poll::Ready(read) = this.look(ctx, into) {
                this.read_bytes += into.filled().len() - before;
                return Poll::Ready(read);
            }
            if this.read_bytes > 0 {
                this.is_burst = std::mem::take(&mut this.read_bytes) >= BURST_BYTES;
            }
            let Some(next) = next.filter(|_| !this.is_burst) else {
                return match this.socket {
                    Socket::Watched(_) => Poll::Pending,
                    Socket::Unwatched(_) | Socket::Gone => this.watched()?.poll_read(ctx, into),
                };
            };
            if !this.write_waits {
                this.unwatch()?;
            }
            this.sleep = Some(Box::pin(tokio::time::sleep_until(next.into())));
        }
    }
}

impl AsyncWrite for Lulled {
    fn poll_write(self: Pin<&mut Self>, ctx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.watched()?.poll_write(ctx, bytes);
        this.write_waits = written.is_pending();
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.watched()?.poll_write_vectored(ctx, bytes);
        this.write_waits = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Watched(socket) => Pin::new(socket).poll_flush(ctx),
            // What was written is with the system already.
            Socket::Unwatched(_) | Socket::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().watched()?.poll_shutdown(ctx)
    }
}

impl ActixStream for Lulled {
    fn poll_read_ready(&self, ctx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match &self.socket {
            Socket::Watched(socket) => ActixStream::poll_read_ready(socket, ctx),
            Socket::Unwatched(_) | Socket::Gone => Poll::Ready(Ok(Ready::READABLE)),
        }
    }

    fn poll_write_ready(&self, ctx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match &self.socket {
            Socket::Watched(socket) => ActixStream::poll_write_ready(socket, ctx),
            Socket::Unwatched(_) | Socket::Gone => Poll::Ready(Ok(Ready::WRITABLE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock::Clock;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> Instant {
        Clock::system().monotonic()
    }

    /// A long one, whose beats come when [`beat`] says so.
    fn lull() -> Lull {
        let lull = Lull { end: Rc::default(), next_beat: || now() + HOUR };
        lull.until(now() + 10 * HOUR);
        lull
    }

    /// Waits until so many bytes have come.
    async fn comes(near: &Lulled, count: usize) {
        let mut bytes = vec![0; count];
        loop {
            let come = match &near.socket {
                Socket::Watched(socket) => socket.peek(&mut bytes).await,
                Socket::Unwatched(socket) => socket.peek(&mut bytes),
                Socket::Gone => panic!("it is gone"),
            };
            if come.is_ok_and(|come| come >= count) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The beat that it waits for.
    fn beat(near: &mut Lulled) {
        assert!(near.sleep.is_some(), "it waits for none");
        near.sleep = Some(Box::pin(tokio::time::sleep_until(now().into())));
    }

    /// One end of a connection, and the other.
    async fn ends(lull: &Lull) -> (Lulled, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Lulled::of(Socket::Watched(socket), lull.clone()), listener.accept().unwrap().0)
    }

    async fn read(near: &mut Lulled) -> String {
        let mut bytes = [0; 100];
        let reading = tokio::time::timeout(Duration::from_secs(20), near.read(&mut bytes));
        let length = reading.await.expect("something to read").unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn reads_nothing(near: &mut Lulled) -> bool {
        read(near).now_or_never().is_none()
    }

    fn is_watched(near: &Lulled) -> bool {
        matches!(near.socket, Socket::Watched(_))
    }

    #[actix::test]
    async fn in_a_lull_what_has_come_is_read_at_each_beat() {
        let (mut near, mut far) = ends(&lull()).await;
        assert!(reads_nothing(&mut near));
        far.write_all(b"one").unwrap();
        assert!(reads_nothing(&mut near) && !is_watched(&near), "what comes wakes nobody");
        comes(&near, 3).await;
        beat(&mut near);
        assert_eq!(read(&mut near).await, "one");
        // All that has come by then, and what comes behind it at the next.
        far.write_all(b"two").unwrap();
        comes(&near, 3).await;
        assert_eq!(read(&mut near).now_or_never().as_deref(), Some("two"));
        assert!(reads_nothing(&mut near));
        far.write_all(b"three").unwrap();
        assert!(reads_nothing(&mut near));
        comes(&near, 5).await;
        beat(&mut near);
        assert_eq!(read(&mut near).await, "three");
        assert!(reads_nothing(&mut near));
        // A beat that finds nothing is followed by the next.
        beat(&mut near);
        let is_due = |near: &Lulled| {
            near.sleep.as_ref().is_some_and(|sleep| sleep.deadline().into_std() < now() + HOUR / 2)
        };
        while is_due(&near) {
            assert!(reads_nothing(&mut near));
            tokio::task::yield_now().await;
        }
        assert!(near.sleep.is_some() && !is_watched(&near));
    }

    #[actix::test]
    async fn behind_a_lull_what_comes_is_read_as_it_comes() {
        let lull = lull();
        let (mut near, mut far) = ends(&lull).await;
        assert!(reads_nothing(&mut near));
        // Before the next beat it is over.
        lull.until(now() + HOUR / 2);
        assert!(reads_nothing(&mut near) && is_watched(&near));
        far.write_all(b"one").unwrap();
        assert_eq!(read(&mut near).await, "one");
        // One that is ended before its time.
        lull.until(now() + 10 * HOUR);
        assert!(reads_nothing(&mut near) && !is_watched(&near));
        far.write_all(b"two").unwrap();
        lull.end();
        assert_eq!(read(&mut near).now_or_never().as_deref(), Some("two"));
        assert!(reads_nothing(&mut near) && is_watched(&near));
    }

    #[actix::test]
    async fn a_burst_is_followed_as_it_comes_and_then_the_lull_goes_on() {
        let (mut near, mut far) = ends(&lull()).await;
        assert!(reads_nothing(&mut near));
        let mut much = vec![b'x'; BURST_BYTES];
        far.write_all(&much).unwrap();
        comes(&near, BURST_BYTES).await;
        beat(&mut near);
        near.read_exact(&mut much).await.unwrap();
        assert!(reads_nothing(&mut near) && is_watched(&near));
        far.write_all(b"one").unwrap();
        assert_eq!((read(&mut near).await.as_str(), is_watched(&near)), ("one", true));
        assert!(reads_nothing(&mut near) && !is_watched(&near));
    }

    #[actix::test]
    async fn what_is_written_in_a_lull_goes_out_at_once_and_the_lull_goes_on() {
        let (mut near, mut far) = ends(&lull()).await;
        assert!(reads_nothing(&mut near));
        near.write_all(b"one").await.unwrap();
        let mut bytes = [0; 3];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"one");
        far.write_all(b"two").unwrap();
        assert!(reads_nothing(&mut near));
        comes(&near, 3).await;
        beat(&mut near);
        assert_eq!(read(&mut near).await, "two");
        assert!(reads_nothing(&mut near) && !is_watched(&near));
    }

    #[actix::test]
    async fn who_waits_for_room_to_write_goes_on_to_be_watched() {
        let (mut near, _far) = ends(&lull()).await;
        let much = vec![b'x'; 1 << 20];
        // The far end takes nothing.
        while near.write(&much).now_or_never().is_some() {}
        assert!(reads_nothing(&mut near) && is_watched(&near));
    }

    #[actix::test]
    async fn an_end_in_a_lull_is_found_at_the_next_beat() {
        let (mut near, mut far) = ends(&lull()).await;
        assert!(reads_nothing(&mut near));
        far.write_all(b"last").unwrap();
        drop(far);
        comes(&near, 4).await;
        beat(&mut near);
        assert_eq!((read(&mut near).await.as_str(), read(&mut near).await.as_str()), ("last", ""));
    }
}
