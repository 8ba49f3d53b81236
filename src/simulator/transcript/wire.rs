//! What carries a stream to the client: a WebSocket both ways, or the answer to one request over
//! HTTP, whose client makes each further request by itself.

use std::convert::Infallible;

use actix_web::web::Bytes;
use actix_ws::{AggregatedMessage, AggregatedMessageStream};
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

/// Messages on their way into an HTTP answer; more wait until the client has read.
const CHUNKS_MAX: usize = 4;
/// Requests beside an HTTP stream that wait to be heard.
const REQUESTS_MAX: usize = 16;

/// A request of the client.
pub(super) struct Heard {
    /// Its name and lines, as a WebSocket carries them.
    pub text: String,
    /// Where the answer goes, if it was made beside the stream.
    pub answer: Option<oneshot::Sender<String>>,
}

impl Heard {
    fn on_the_stream(text: impl Into<String>) -> Heard {
        Heard { text: text.into(), answer: None }
    }
}

/// A stream's connection.
pub(super) enum Wire {
    WebSocket { session: actix_ws::Session, messages: Box<AggregatedMessageStream> },
    Http { chunks: mpsc::Sender<Bytes>, requests: mpsc::Receiver<Heard> },
}

/// Where requests beside an HTTP stream go.
pub(super) type Beside = mpsc::Sender<Heard>;

impl Wire {
    /// An HTTP stream that `text` has asked for; the body of its answer, and where further
    /// requests go.
    pub fn http(text: String) -> (Wire, impl Stream<Item = Result<Bytes, Infallible>> + 'static, Beside) {
        let (chunks, mut body) = mpsc::channel(CHUNKS_MAX);
        let (beside, requests) = mpsc::channel(REQUESTS_MAX);
        let first = beside.try_send(Heard::on_the_stream(text));
        first.expect("a queue that was just made has room and a reader");
        let body =
            futures_util::stream::poll_fn(move |context| body.poll_recv(context).map(|chunk| chunk.map(Ok)));
        (Wire::Http { chunks, requests }, body, beside)
    }

    /// What it is, as settings call it.
    pub fn name(&self) -> &'static str {
        match self {
            Wire::WebSocket { .. } => "websocket",
            Wire::Http { .. } => "http",
        }
    }

    /// Sends lines. False where the client is gone.
    pub async fn say(&mut self, lines: String) -> bool {
        match self {
            Wire::WebSocket { session, .. } => session.text(lines).await.is_ok(),
            Wire::Http { chunks, .. } => chunks.send(lines.into()).await.is_ok(),
        }
    }

    /// The client's next request; none once it is gone, or has asked for another stream over HTTP.
    /// No request is lost where this is not waited for to the end.
    pub async fn hear(&mut self) -> Option<Heard> {
        match self {
            Wire::Http { chunks, requests } => tokio::select! {
                heard = requests.recv() => heard,
                () = chunks.closed() => None,
            },
            Wire::WebSocket { session, messages } => loop {
                match messages.recv().await {
                    Some(Ok(AggregatedMessage::Text(text))) => break Some(Heard::on_the_stream(&*text)),
                    // Fails where the client is gone, which the next message tells.
                    Some(Ok(AggregatedMessage::Ping(payload))) => drop(session.pong(&payload).await),
                    Some(Ok(AggregatedMessage::Pong(_))) => {}
                    Some(Ok(AggregatedMessage::Binary(_) | AggregatedMessage::Close(_)) | Err(_)) | None => {
                        break None;
                    }
                }
            },
        }
    }

    /// Ends the stream.
    pub async fn close(self) {
        if let Wire::WebSocket { session, .. } = self {
            // Fails where the client is gone already: then there is nobody to tell.
            let _ = session.close(None).await;
        }
    }
}
