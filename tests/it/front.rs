//! What stands between the program and the simulator: it hears all that is said, speaks TLS where it is given a
//! certificate, and points elsewhere where it is told to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A port of this machine that leads to the simulator.
pub struct Front {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    simulator: SocketAddr,
    tls: Option<TlsAcceptor>,
    /// All that was said, in either direction.
    heard: Mutex<Vec<u8>>,
    /// Where requests are pointed to whose first line has this in it.
    elsewhere: Mutex<Option<(&'static str, String)>>,
    /// Requests whose first line has this in it are heard and not passed on.
    swallowed: Mutex<Option<&'static str>>,
    connections: AtomicUsize,
    /// It does not say that it has taken TLS off.
    is_quiet: AtomicBool,
}

impl Front {
    /// Leads to a simulator, for as long as the test's process lives.
    pub fn start(simulator: SocketAddr, tls: Option<ServerConfig>) -> Front {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            simulator,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            heard: Mutex::default(),
            elsewhere: Mutex::default(),
            swallowed: Mutex::default(),
            connections: AtomicUsize::new(0),
            is_quiet: AtomicBool::new(false),
        });
        let own = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    own.connections.fetch_add(1, Ordering::SeqCst);
                    // A client that trusts nobody goes away, and so do both in the end.
                    tokio::spawn(own.clone().serve(client));
                }
            });
        });
        Front { port, shared }
    }

    /// Its address for the program.
    pub fn api_url(&self) -> String {
        format!("{}/gateway/deal", self.base())
    }

    /// The same without a path.
    pub fn base(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Answers requests from now on that have `path` in their first line by pointing elsewhere.
    pub fn point(&self, path: &'static str, elsewhere: &str) {
        *self.shared.elsewhere.lock().unwrap() = Some((path, elsewhere.to_owned()));
    }

    /// Leads to the simulator again, whatever is asked.
    pub fn point_nowhere(&self) {
        *self.shared.elsewhere.lock().unwrap() = None;
    }

    /// Leaves requests from now on that have `path` in their first line without an answer.
    pub fn swallow(&self, path: &'static str) {
        *self.shared.swallowed.lock().unwrap() = Some(path);
    }

    /// How many requests began so.
    pub fn asked(&self, line: &str) -> usize {
        memchr::memmem::find_iter(&self.heard(), line).count()
    }

    /// Passes requests on from now on without saying that they came over TLS, so that the stream's address has none.
    pub fn keep_quiet_about_tls(&self) {
        self.shared.is_quiet.store(true, Ordering::SeqCst);
    }

    /// All that was said so far, in either direction.
    pub fn heard(&self) -> Vec<u8> {
        self.shared.heard.lock().unwrap().clone()
    }

    /// How often somebody has connected.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn serve(self: Arc<Shared>, client: TcpStream) -> io::Result<()> {
        match &self.tls {
            Some(tls) => self.carry(tls.accept(client).await?).await,
            None => self.carry(client).await,
        }
    }

    async fn carry(&self, client: impl AsyncRead + AsyncWrite) -> io::Result<()> {
        let server = TcpStream::connect(self.simulator).await?;
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (tokio::io::split(client), server.into_split());
        let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            tokio::select! {
                read = from_client.read(&mut asked) => {
                    let bytes = &asked[..read?];
                    self.hear(bytes);
                    if let Some(elsewhere) = self.pointed(bytes) {
                        let answer = format!(
                            "HTTP/1.1 307 Elsewhere\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        );
                        to_client.write_all(answer.as_bytes()).await?;
                        return to_client.shutdown().await;
                    }
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    if self.swallows(bytes) {
                        continue;
                    }
                    to_server.write_all(&self.forwarded(bytes)).await?;
                }
                read = from_server.read(&mut answered) => {
                    let bytes = &answered[..read?];
                    if bytes.is_empty() {
                        return to_client.shutdown().await;
                    }
                    self.hear(bytes);
                    to_client.write_all(bytes).await?;
                }
            }
        }
    }

    /// Where this request is pointed to.
    fn pointed(&self, bytes: &[u8]) -> Option<String> {
        let (path, elsewhere) = self.elsewhere.lock().unwrap().clone()?;
        first_line_has(bytes, path).then_some(elsewhere)
    }

    fn swallows(&self, bytes: &[u8]) -> bool {
        self.swallowed.lock().unwrap().is_some_and(|path| first_line_has(bytes, path))
    }

    fn hear(&self, bytes: &[u8]) {
        self.heard.lock().unwrap().extend_from_slice(bytes);
    }

    /// A request as a proxy passes it on that takes TLS off: it says so.
    fn forwarded(&self, bytes: &[u8]) -> Vec<u8> {
        let line_end: &[u8] = b" HTTP/1.1\r\n";
        match memchr::memmem::find(bytes, line_end)
            .filter(|_| self.tls.is_some() && !self.is_quiet.load(Ordering::SeqCst))
        {
            None => bytes.to_owned(),
            Some(at) => {
                let (line, rest) = bytes.split_at(at + line_end.len());
                [line, b"X-Forwarded-Proto: https\r\n", rest].concat()
            }
        }
    }
}

fn first_line_has(bytes: &[u8], path: &str) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    memchr::memmem::find(line, path.as_bytes()).is_some()
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    /// From the beginning of 2020 to the end of 2079.
    Now,
    /// Until the end of 2020.
    Past,
    /// From 2079 on.
    Later,
}

/// An authority that vouches for whatever it is asked to.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// One that nobody knows.
    pub fn new(called: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, called);
        params.distinguished_name = name;
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes down who it is, for those who are to believe it.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }

    /// What a server speaks TLS with that this authority vouches for.
    pub fn certify(&self, name: &str, valid: Valid) -> ServerConfig {
        let (params, key) = (params(name, valid), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        server(&pem, &key)
    }
}

/// What a server speaks TLS with for which nobody vouches.
pub fn self_signed(name: &str) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let pem = params(name, Valid::Now).self_signed(&key).unwrap().pem();
    server(&pem, &key)
}

fn params(name: &str, valid: Valid) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    let years = match valid {
        Valid::Now => (2020, 2079),
        Valid::Past => (2019, 2020),
        Valid::Later => (2079, 2080),
    };
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 12, 31));
    params
}

fn server(pem: &str, key: &KeyPair) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}
