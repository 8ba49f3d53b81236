//! A socket that is left alone for a while.
//!
//! A socket that a runtime watches wakes its thread whenever something comes, whether anybody reads it or not. In a lull it is
//! not watched: what comes stays with the system, and is found when the lull is over.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_tls::connect::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Has all sockets of one client left alone for a while. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Lull(Rc<Cell<Option<Instant>>>);

impl Lull {
    /// From when it is next read, nothing comes out of a socket before that time. What is written goes out at once.
    pub fn until(&self, time: Instant) {
        self.0.set(Some(time));
    }

    /// Sockets that have not begun to keep it do not.
    pub fn end(&self) {
        self.0.set(None);
    }
}

/// Such a socket.
#[derive(Debug)]
pub struct Lulled {
    socket: Socket,
    lull: Lull,
    /// The last one that it has kept.
    kept: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
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
        let nothing = Lulled { socket: Socket::Gone, lull, kept: None, sleep: None, write_waits: false };
        let (socket, mut connection) = connection.replace_io(nothing);
        connection.io_mut().socket = Socket::Watched(socket);
        connection
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
}

impl AsyncRead for Lulled {
    fn poll_read(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wanted = this.lull.0.get();
        if let Some(until) = wanted.filter(|_| wanted != this.kept) {
            this.kept = wanted;
            if !this.write_waits {
                this.unwatch()?;
            }
            this.sleep = Some(Box::pin(tokio::time::sleep_until(until.into())));
        }
        if let Some(sleep) = &mut this.sleep {
            std::task::ready!(sleep.as_mut().poll(ctx));
            this.sleep = None;
        }
        this.watched()?.poll_read(ctx, into)
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
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock::Clock;

    /// One end of a connection, and the other.
    async fn ends(lull: &Lull) -> (Lulled, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = Lulled {
            socket: Socket::Watched(socket),
            lull: lull.clone(),
            kept: None,
            sleep: None,
            write_waits: false,
        };
        (near, listener.accept().unwrap().0)
    }

    async fn read(near: &mut Lulled) -> String {
        let mut bytes = [0; 100];
        let length = near.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[actix::test]
    async fn what_comes_in_a_lull_is_read_when_it_is_over_and_what_is_written_goes_out_at_once() {
        let (lull, clock) = (Lull::default(), Clock::system());
        let (mut near, mut far) = ends(&lull).await;
        far.write_all(b"one").unwrap();
        assert_eq!(read(&mut near).await, "one");
        lull.until(clock.monotonic() + Duration::from_secs(3_600));
        far.write_all(b"two").unwrap();
        assert!(read(&mut near).now_or_never().is_none());
        assert!(matches!(near.socket, Socket::Unwatched(_)), "what comes wakes nobody");
        // The latest word counts.
        let over = clock.monotonic() + Duration::from_millis(50);
        lull.until(over);
        assert_eq!(read(&mut near).await, "two");
        assert!(clock.monotonic() >= over);
        // A lull is kept once.
        far.write_all(b"three").unwrap();
        assert_eq!(read(&mut near).await, "three");
        lull.until(clock.monotonic() + Duration::from_secs(3_600));
        assert!(read(&mut near).now_or_never().is_none());
        near.write_all(b"four").await.unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"four");
        assert!(read(&mut near).now_or_never().is_none(), "the lull goes on");
        // It is no matter of a connection that is made then.
        lull.end();
        let (mut near, mut far) = ends(&lull).await;
        far.write_all(b"five").unwrap();
        assert_eq!(read(&mut near).await, "five");
    }

    #[actix::test]
    async fn who_waits_for_room_to_write_goes_on_to_be_watched() {
        let lull = Lull::default();
        let (mut near, _far) = ends(&lull).await;
        let much = vec![b'x'; 1 << 20];
        // The far end takes nothing.
        while near.write(&much).now_or_never().is_some() {}
        lull.until(Clock::system().monotonic() + Duration::from_secs(3_600));
        assert!(read(&mut near).now_or_never().is_none());
        assert!(matches!(near.socket, Socket::Watched(_)));
    }

    #[actix::test]
    async fn an_end_in_a_lull_is_found_when_it_is_over() {
        let lull = Lull::default();
        let (mut near, mut far) = ends(&lull).await;
        lull.until(Clock::system().monotonic() + Duration::from_millis(50));
        assert!(read(&mut near).now_or_never().is_none());
        far.write_all(b"last").unwrap();
        drop(far);
        assert_eq!((read(&mut near).await.as_str(), read(&mut near).await.as_str()), ("last", ""));
    }
}
