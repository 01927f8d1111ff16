//! Other agents of the fleet, and connections to them.
//!
//! Over TLS 1.3 (RFC 8446). Each agent makes a key and a certificate when it starts, and says its digest in its sign of life; a
//! connection is good where each end shows the certificate that the board names for it. So agents need no authority of their
//! own, and one that may not write to the board can be nobody.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xeno_model::id::Digest;
use xeno_state::presence::Presence;

use super::wire::Wire;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connections that shake hands at a time; more wait in the kernel's queue.
const SHAKING_MAX: usize = 32;

/// What every certificate is made out to; its digest is what counts.
const NAME: &str = "xenoslice";

/// A connection that is being made.
pub(crate) type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Wire, String>> + Send + 'a>>;

/// A connection that came in, and the digest of the certificate that was shown on it.
pub(crate) type Incoming = (Digest, Wire);

/// The way to other agents.
pub(crate) trait Network: Send + Sync {
    /// A connection to the agent of this presence.
    fn connect<'a>(&'a self, to: &'a Presence) -> Connecting<'a>;
}

/// This agent's key, and the certificate that goes with it.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Makes one that nobody has yet.
    pub(crate) fn new() -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]);
        let made = made.map_err(|error| format!("make a certificate: {error}"))?;
        Ok(Self {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
            provider: Arc::new(ring::default_provider()),
        })
    }

    /// The digest that other agents find on the board.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let provider = Arc::clone(&self.provider);
        let known = Arc::new(Pinned {
            expected: None,
            provider: Arc::clone(&provider),
        });
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(known)
            .with_single_cert(vec![self.certificate.clone()], self.key())
            .map_err(|error| error.to_string())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn connector(&self, expected: Digest) -> Result<TlsConnector, String> {
        let provider = Arc::clone(&self.provider);
        let known = Arc::new(Pinned {
            expected: Some(expected),
            provider: Arc::clone(&provider),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(known)
            .with_client_auth_cert(vec![self.certificate.clone()], self.key())
            .map_err(|error| error.to_string())?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// Agents over TCP.
pub(crate) struct Tls {
    identity: Arc<Identity>,
}

impl Tls {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Self { identity }
    }
}

impl Network for Tls {
    fn connect<'a>(&'a self, to: &'a Presence) -> Connecting<'a> {
        Box::pin(async move {
            let address = to.address.as_deref().ok_or(
                "its agent listens for no other agents (`[peers]` in its agent.toml says where it should)",
            )?;
            let connector = self.identity.connector(to.certificate)?;
            let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
            let connecting = async {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                connector.connect(name, stream).await
            };
            match timeout(CONNECT_MAX, connecting).await {
                Ok(Ok(stream)) => Ok(Box::new(stream) as Wire),
                Ok(Err(error)) => Err(format!("connect to {address}: {error}")),
                Err(_) => Err(format!(
                    "connect to {address}: no answer within {} s",
                    CONNECT_MAX.as_secs()
                )),
            }
        })
    }
}

/// Takes connections for ever.
pub(crate) async fn listen(
    listener: TcpListener,
    identity: Arc<Identity>,
    incoming: mpsc::Sender<Incoming>,
) -> Result<(), String> {
    let acceptor = identity.acceptor()?;
    let places = Arc::new(tokio::sync::Semaphore::new(SHAKING_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.map_err(|error| error.to_string())?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the caller is gone already.
                tracing::warn!("a connection of another agent was not taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, incoming) = (acceptor.clone(), incoming.clone());
        tokio::spawn(async move {
            let _place = place;
            let shaking = async {
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                acceptor.accept(stream).await
            };
            let Ok(Ok(stream)) = timeout(CONNECT_MAX, shaking).await else {
                return;
            };
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            if let Some(digest) = shown.map(|certificate| Digest::of(certificate)) {
                // An agent that is ending takes nothing more.
                let _ = incoming.send((digest, Box::new(stream))).await;
            }
        });
    }
}

/// A wire that dies without a word is noticed within a minute, not within hours (tcp(7)).
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    sockopt::set_tcp_user_timeout(stream, 45_000)?;
    Ok(())
}

/// Takes the certificate with this digest for good; `None`: any, which is compared with the board once it is known who shows it.
#[derive(Debug)]
struct Pinned {
    expected: Option<Digest>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        match self.expected {
            Some(expected) if expected != Digest::of(certificate) => Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn old() -> rustls::Error {
        rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::AtomicU64;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::spawn_blocking;
    use xeno_reconciler::tenure::BootId;

    use super::super::pump::{counted_pipe_over, pipe_over};
    use super::*;

    async fn agent() -> (Arc<Identity>, Presence, mpsc::Receiver<Incoming>) {
        let identity = Arc::new(Identity::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let presence = Presence {
            boot: BootId::default(),
            address: Some(listener.local_addr().unwrap().to_string()),
            certificate: identity.digest(),
        };
        let (tell, incoming) = mpsc::channel(4);
        tokio::spawn(listen(listener, Arc::clone(&identity), tell));
        (identity, presence, incoming)
    }

    #[tokio::test]
    async fn each_end_sees_who_the_other_is() {
        let (_, there, mut incoming) = agent().await;
        let me = Arc::new(Identity::new().unwrap());
        let mut wire = Tls::new(Arc::clone(&me)).connect(&there).await.unwrap();
        wire.write_all(b"hello\n").await.unwrap();
        wire.flush().await.unwrap();
        let (shown, mut heard) = incoming.recv().await.unwrap();
        assert_eq!(shown, me.digest());
        let mut line = [0; 6];
        heard.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"hello\n");
    }

    #[tokio::test]
    async fn whoever_shows_another_certificate_is_not_spoken_to() {
        let (_, there, _incoming) = agent().await;
        let impostor = Presence {
            certificate: Digest::of(b"another"),
            ..there
        };
        let me = Tls::new(Arc::new(Identity::new().unwrap()));
        assert!(me.connect(&impostor).await.is_err());
        let silent = Presence {
            address: None,
            ..impostor
        };
        let Err(why) = me.connect(&silent).await else {
            panic!("there is nobody")
        };
        assert!(why.contains("[peers]"), "{why}");
    }

    #[tokio::test]
    async fn whoever_shows_none_gets_no_further() {
        let (_, there, mut incoming) = agent().await;
        let mut stream = TcpStream::connect(there.address.unwrap()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        // It hangs up, with an alert or without.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(incoming.try_recv().is_err());
    }

    #[tokio::test]
    async fn why_one_end_took_no_more_is_heard_by_the_other() {
        let (_, there, mut incoming) = agent().await;
        let me = Tls::new(Arc::new(Identity::new().unwrap()));
        for round in 0..12 {
            let sent = Arc::<AtomicU64>::default();
            let wire = me.connect(&there).await.unwrap();
            let (mut near, _carrying) = counted_pipe_over(wire, &sent).unwrap();
            // A layer without end: nothing is heard of the other node before it takes no more.
            let sending = spawn_blocking(move || {
                let much = vec![7; 1 << 20];
                while near.write_all(&much).is_ok() {}
                let mut heard = String::new();
                near.read_to_string(&mut heard).map(|_| heard)
            });
            let (_, wire) = incoming.recv().await.unwrap();
            let (mut far, _carrying) = pipe_over(wire).unwrap();
            let refusing = spawn_blocking(move || {
                far.read_exact(&mut vec![0; 3 << 20]).unwrap();
                far.write_all(b"there is no room").unwrap();
            });
            refusing.await.unwrap();
            let heard = sending.await.unwrap();
            assert_eq!(heard.unwrap(), "there is no room", "in round {round}");
            let bytes = sent.load(std::sync::atomic::Ordering::Relaxed);
            assert!(bytes < 256 << 20, "{bytes} bytes went to nobody");
        }
    }
}
