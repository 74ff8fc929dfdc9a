//! Handshakes over loopback: a client of the standard library's sockets and rustls, a server as the member has it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, RevokedCertParams, SerialNumber,
    SigningKey,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, NamedGroup, RootCertStore, ServerConnection, StreamOwned,
};
use time::{Duration, OffsetDateTime};

use super::door::Door;
use super::files;
use super::handshake::{self, Handshakes};
use super::port::{Port, Side};
use super::provider::provider;
use super::san::Addresses;
use super::stream::TlsStream;
use super::workers::Workers;
use super::x509::{Facts, Revoked, Usage};
use crate::config::tls::{Tls, TlsFiles, TlsVersion};
use crate::server::io::{dial, executor, socket, task};
use crate::server::metrics;

/// A folder that is gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kevel-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        // Renamed into place, so that each version is a file of its own.
        fs::write(path.with_extension("new"), bytes).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    authority_with(name, KeyPair::generate().unwrap())
}

fn authority_with(name: &str, key: KeyPair) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    be_authority(&mut params);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn be_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

/// A certificate for this machine, by which its name, its serial number and its last day are known.
struct Leaf {
    cert: String,
    key: String,
}

fn leaf(authority: &Authority, name: &str, serial: u64, days: i64) -> Leaf {
    leaf_with(authority, name, serial, days, KeyPair::generate().unwrap())
}

fn leaf_with(authority: &Authority, name: &str, serial: u64, days: i64, key: KeyPair) -> Leaf {
    let params = params(name, serial, days);
    let cert = params.signed_by(&key, authority).unwrap();
    Leaf { cert: cert.pem(), key: key.serialize_pem() }
}

fn params(name: &str, serial: u64, days: i64) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(10);
    params.not_after = now + Duration::days(days);
    params
}

fn tls(files: TlsFiles) -> Tls {
    let peer = files.clone();
    let (min, max) = (TlsVersion::V12, TlsVersion::V13);
    Tls { client: files, peer, validity_years: 1, cipher_suites: Vec::new(), min, max }
}

/// A server that sends back what it gets, behind the name of who has come. It ends with `stop`.
fn echo(port: Arc<Port>, stop: Arc<std::sync::atomic::AtomicBool>) -> (SocketAddr, executor::Executor) {
    let listening = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = listening.local_addr().unwrap();
    let run = move || async move {
        let (handshakes, counts) = (Handshakes::new(Workers::start(1).unwrap()), metrics::Core::new());
        let door = Rc::new(Door { port, handshakes, counts, addresses: Some(Addresses::default()) });
        let listener = socket::accept_on(listening);
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            let accepting = async { listener.accept().await.ok() };
            let within = crate::server::io::clock::now() + std::time::Duration::from_millis(20);
            let Some(Some(accepted)) = task::until(within, accepting).await else { continue };
            let door = door.clone();
            task::spawn(async move {
                let peer = accepted.peer_addr().unwrap();
                let tcp = crate::server::io::tcp::Tcp::new(accepted);
                if let Some((stream, name)) = door.welcome(tcp, &[], peer).await {
                    let _ = send_back(stream, name).await;
                }
            });
        }
    };
    (address, executor::spawn("echo", None, 64, run).unwrap())
}

async fn send_back(mut stream: TlsStream, name: Option<Rc<str>>) -> io::Result<()> {
    stream.write_all(format!("{}\n", name.as_deref().unwrap_or("nobody")).as_bytes()).await?;
    let mut buffer = vec![0; 70_000];
    for round in 0.. {
        // Reads of all lengths: short ones leave a part of a record behind.
        let room = [70_000, 1, 10_000, 16_384][round % 4];
        let length = stream.read(&mut buffer[..room]).await?;
        if length == 0 {
            return stream.close().await;
        }
        stream.write_all(&buffer[..length]).await?;
    }
    Ok(())
}

/// A client that trusts `ca` and shows nothing.
fn client(address: SocketAddr, ca: &str) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    connect(address, client_session(ca, None))
}

fn connect(
    address: SocketAddr,
    session: ClientConnection,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    Ok(StreamOwned::new(session, socket))
}

fn client_session(ca: &str, leaf: Option<&Leaf>) -> ClientConnection {
    session_with(provider(), ca, leaf)
}

fn session_with(spoken: CryptoProvider, ca: &str, leaf: Option<&Leaf>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(spoken));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            // Nothing is compared here: rustls does not read certificates of version 1.
            let key = provider().key_provider.load_private_key(key).unwrap();
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
        }
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// By which name the server knows a client; an error where it does not let the client in.
fn name_of(address: SocketAddr, ca: &str, leaf: Option<&Leaf>) -> io::Result<String> {
    name_by(provider(), address, ca, leaf)
}

fn name_by(spoken: CryptoProvider, address: SocketAddr, ca: &str, leaf: Option<&Leaf>) -> io::Result<String> {
    let mut stream = connect(address, session_with(spoken, ca, leaf))?;
    let mut name = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match byte {
            [b'\n'] => return Ok(String::from_utf8(name).unwrap()),
            [byte] => name.push(byte),
        }
    }
}

fn files(folder: &Folder, server: &Leaf, ca: Option<&str>) -> TlsFiles {
    TlsFiles {
        cert: folder.write("server.crt", &server.cert),
        key: folder.write("server.key", &server.key),
        trusted_ca: ca.map(|ca| folder.write("ca.crt", ca)).unwrap_or_default(),
        client_cert_auth: ca.is_some(),
        ..TlsFiles::default()
    }
}

#[test]
fn bytes_of_any_length_go_both_ways_whole() {
    let (folder, ca) = (Folder::new("bytes"), authority("ca"));
    let files = files(&folder, &leaf(&ca, "server", 1, 10), None);
    let port = Arc::new(Port::open(&tls(files), Side::Client).unwrap());
    let stop = Arc::default();
    let (address, executor) = echo(port, Arc::clone(&stop));
    let mut stream = client(address, &ca.pem()).unwrap();
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"nobody\n");
    let mut sent = 0_u32;
    for length in [1, 16_383, 16_384, 16_385, 100_000, 3_000_000] {
        let bytes: Vec<u8> = (0..length).map(|at| (at ^ length) as u8).collect();
        // A client that writes all before it reads any makes the server wait with what it has sealed.
        let mut returned = vec![0; bytes.len()];
        for (out, back) in bytes.chunks(200_000).zip(returned.chunks_mut(200_000)) {
            stream.write_all(out).unwrap();
            stream.flush().unwrap();
            stream.read_exact(back).unwrap();
        }
        assert!(bytes == returned, "{length}");
        sent += length;
    }
    assert!(sent > 3_000_000);
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    drop(stream);
    executor.join().unwrap();
}

#[test]
fn clients_are_let_in_by_their_certificates_as_the_files_of_the_moment_say() {
    let folder = Folder::new("clients");
    let (ca, other) = (authority("ca"), authority("other"));
    let server = leaf(&ca, "server", 1, 10);
    let files = TlsFiles {
        allowed_cns: vec!["alice".into(), "bob".into()],
        ..files(&folder, &server, Some(&ca.pem()))
    };
    let files = TlsFiles { crl: folder.write("ca.crl", crl(&ca, &[])), ..files };
    let port = Arc::new(Port::open(&tls(files), Side::Client).unwrap());
    let stop = Arc::default();
    let (address, executor) = echo(port.clone(), Arc::clone(&stop));
    let pem = ca.pem();
    let (alice, bob) = (leaf(&ca, "alice", 2, 10), leaf(&ca, "bob", 3, 10));
    assert_eq!(name_of(address, &pem, Some(&alice)).unwrap(), "alice");
    assert_eq!(name_of(address, &pem, Some(&bob)).unwrap(), "bob");
    for (who, leaf) in [
        ("nobody", None),
        ("somebody else", Some(leaf(&ca, "eve", 4, 10))),
        ("of another authority", Some(leaf(&other, "alice", 5, 10))),
        ("expired", Some(leaf(&ca, "alice", 6, -1))),
    ] {
        assert!(name_of(address, &pem, leaf.as_ref()).is_err(), "{who}");
    }

    // Bob is revoked, and a list that is none changes nothing.
    folder.write("ca.crl", crl(&ca, &[3]));
    port.look(0);
    assert!(name_of(address, &pem, Some(&bob)).is_err());
    folder.write("ca.crl", "nonsense");
    port.look(0);
    assert!(name_of(address, &pem, Some(&bob)).is_err() && name_of(address, &pem, Some(&alice)).is_ok());
    folder.write("ca.crl", crl(&ca, &[]));

    // A new certificate without its key changes nothing; with it, and with a new authority, all is new.
    let (after, carol) = (leaf(&other, "server", 7, 10), leaf(&other, "alice", 8, 10));
    folder.write("server.crt", &after.cert);
    port.look(0);
    assert_eq!(name_of(address, &pem, Some(&alice)).unwrap(), "alice");
    folder.write("server.key", &after.key);
    folder.write("ca.crt", other.pem());
    port.look(0);
    assert!(name_of(address, &pem, Some(&alice)).is_err());
    assert_eq!(name_of(address, &other.pem(), Some(&carol)).unwrap(), "alice");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    executor.join().unwrap();
}

fn crl(authority: &Authority, serials: &[u64]) -> Vec<u8> {
    let now = OffsetDateTime::now_utc();
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: now,
        next_update: now + Duration::days(1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(authority).unwrap().der().to_vec()
}

#[test]
fn a_certificate_says_who_for_whom_and_how_long() {
    let ca = authority("ca");
    let leaf = leaf(&ca, "alice", 0x1234, 10);
    let der = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
    let facts = Facts::read(&der).unwrap();
    assert_eq!((facts.common_name.as_str(), facts.serial.as_slice()), ("alice", &[0x12, 0x34][..]));
    assert_eq!(facts.dns_names, ["localhost"]);
    assert!(facts.is_for_host("127.0.0.1") && facts.is_for_host("LOCALHOST") && !facts.is_for_host("::1"));
    assert!(facts.allows(Usage::Client) && facts.allows(Usage::Server));
    assert_eq!(facts.not_after - facts.not_before, 20 * 24 * 60 * 60);
    assert!(facts.common_name == "alice" && Facts::read(&der[..der.len() - 1]).is_none());
    for end in 0..der.len() {
        assert!(Facts::read(&der[..end]).is_none(), "cut at {end}");
    }
    let list = crl(&ca, &[0x1234]);
    assert!(Revoked::read(&list).unwrap().has(&facts));
    assert!(!Revoked::read(&crl(&ca, &[0x34])).unwrap().has(&facts));
    assert!((0..list.len()).all(|end| Revoked::read(&list[..end]).is_none()));
    let serials = [7, 0x1234, 0x12, 0xffff_ffff, 0x0100, 0x1235];
    let many = Revoked::read(&crl(&ca, &serials)).unwrap();
    let has = |serial: u64| {
        let bytes = serial.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        many.has(&Facts { serial: bytes[zeros..].to_vec(), ..Facts::default() })
    };
    assert!(serials.iter().all(|serial| has(*serial)));
    assert!([0, 1, 0x34, 0x13, 0x1233, 0x1236, 0xffff, u64::MAX].iter().all(|serial| !has(*serial)));
    // Whatever stands there is read or refused.
    for bytes in [&der[..], &list] {
        for at in 0..bytes.len() {
            for other in [0, 1, 0x7f, 0x80, 0x84, 0xff, bytes[at] ^ 0x20] {
                let mut changed = bytes.to_vec();
                changed[at] = other;
                let _ = (Facts::read(&changed), Revoked::read(&changed));
            }
        }
    }
    let star = Facts { dns_names: vec!["*.a.b".into()], ..Facts::default() };
    let is_for: Vec<bool> =
        ["x.a.b", "a.b", "x.y.a.b", ".a.b", "x.a.b."].map(|host| star.is_for_host(host)).into();
    assert_eq!(is_for, [true, false, false, false, true]);
}

/// A certificate in a block of PEM.
fn pem_of(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----");
    for (number, bytes) in der.chunks(3).enumerate() {
        if number % 16 == 0 {
            text.push('\n');
        }
        let bits = bytes.iter().chain(&[0; 2]).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize % 64] as char;
            text.push(if place <= bytes.len() { digit } else { '=' });
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}

/// How long the head of an element is, and how long all of it.
fn lengths(element: &[u8]) -> (usize, usize) {
    let (head, content) = match element[1] {
        0x82 => (4, usize::from(u16::from_be_bytes([element[2], element[3]]))),
        0x81 => (3, usize::from(element[2])),
        short => (2, usize::from(short)),
    };
    (head, head + content)
}

/// The elements in an element.
fn elements(element: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (&element[lengths(element).0..], Vec::new());
    while !rest.is_empty() {
        let (next, behind) = rest.split_at(lengths(rest).1);
        found.push(next);
        rest = behind;
    }
    found
}

/// An element that is a sequence of these.
fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = (content.len() as u16).to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![0x30, length[1]],
        0x80..0x100 => vec![0x30, 0x81, length[1]],
        _ => vec![0x30, 0x82, length[0], length[1]],
    };
    [head, content].concat()
}

/// A certificate whose body is changed, signed anew by the authority.
fn resigned_with(authority: &Authority, leaf: &Leaf, change: impl Fn(&[u8]) -> Vec<u8>) -> Leaf {
    let der = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
    let [body, algorithm, _] = elements(&der)[..] else { panic!("a certificate has three parts") };
    let body = change(body);
    let signature = authority.key().sign(&body).unwrap();
    let bits = [&[0x03, signature.len() as u8 + 1, 0][..], &signature].concat();
    Leaf { cert: pem_of(&sequence(&[&body, algorithm, &bits])), key: leaf.key.clone() }
}

/// A certificate in which what stands right before `mark` is damaged, signed anew by the authority.
fn resigned(authority: &Authority, leaf: &Leaf, mark: &[u8], damage: impl Fn(&mut [u8])) -> Leaf {
    resigned_with(authority, leaf, |body| {
        let mut body = body.to_vec();
        let at = body.windows(mark.len()).rposition(|window| window == mark).unwrap();
        damage(&mut body[..at]);
        body
    })
}

/// The certificate as it would be in version 1, without version and extensions.
fn old(authority: &Authority, leaf: &Leaf) -> Leaf {
    resigned_with(authority, leaf, |body| {
        let parts = elements(body);
        sequence(&parts[1..parts.len() - 1])
    })
}

/// Who is let in where these authorities are trusted.
fn are_let_in(authorities: &str, ca: &Authority, who: &[(&str, &Leaf, bool)]) {
    let folder = Folder::new("odd");
    let files = files(&folder, &leaf(ca, "server", 1, 10), Some(authorities));
    let port = Arc::new(Port::open(&tls(files), Side::Client).unwrap());
    let stop = Arc::default();
    let (address, executor) = echo(port, Arc::clone(&stop));
    for (what, leaf, is_taken) in who {
        for version in ["1.2", "1.3"] {
            let mut spoken = provider();
            spoken.cipher_suites.retain(|suite| suite.tls13().is_some() == (version == "1.3"));
            let name = name_by(spoken, address, &ca.pem(), Some(leaf));
            assert_eq!(name.is_ok(), *is_taken, "{what}, TLS {version}: {name:?}");
        }
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    executor.join().unwrap();
}

#[test]
fn certificates_that_rustls_refuses_are_taken_where_etcd_takes_them() {
    let (ca, other) = (authority("ca"), authority("ca"));
    let alice = leaf(&ca, "alice", 2, 10);
    let authority_of = |by: &Authority, change: fn(&mut CertificateParams)| {
        let (mut params, key) = (params("alice", 3, 10), KeyPair::generate().unwrap());
        be_authority(&mut params);
        change(&mut params);
        Leaf { cert: params.signed_by(&key, by).unwrap().pem(), key: key.serialize_pem() }
    };
    let strange = |params: &mut CertificateParams| {
        let mut unknown = CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions.push(unknown);
    };
    let late = |params: &mut CertificateParams| params.not_after = params.not_before + Duration::days(1);
    let serves = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    are_let_in(
        &ca.pem(),
        &ca,
        &[
            ("alice", &alice, true),
            ("version 1", &old(&ca, &alice), true),
            ("version 1 of another one of that name", &old(&other, &alice), false),
            ("version 1, expired", &old(&ca, &leaf(&ca, "alice", 2, -1)), false),
            ("an authority", &authority_of(&ca, |_| ()), true),
            ("an authority of another one of that name", &authority_of(&other, |_| ()), false),
            ("an authority with something unknown", &authority_of(&ca, strange), false),
            ("an authority, expired", &authority_of(&ca, late), false),
            ("an authority for servers", &authority_of(&ca, serves), false),
        ],
    );
}

#[test]
fn a_certificate_that_is_trusted_signs_others_only_if_it_may_and_while_it_is_valid() {
    let (ca, own) = (authority("ca"), KeyPair::generate().unwrap());
    let pinned = CertifiedIssuer::self_signed(params("alice", 2, 10), own).unwrap();
    let shown = Leaf { cert: pinned.pem(), key: pinned.key().serialize_pem() };
    let child = leaf(&pinned, "bob", 3, 10);
    let both = format!("{}{}", ca.pem(), pinned.pem());
    for authorities in [pinned.pem(), both] {
        are_let_in(&authorities, &ca, &[("alice", &shown, true), ("signed by alice", &child, false)]);
    }
    let mut params = params("late", 4, -1);
    be_authority(&mut params);
    let late = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let (early, alice) = (leaf(&late, "alice", 5, 10), leaf(&ca, "alice", 6, 10));
    let both = format!("{}{}", ca.pem(), late.pem());
    are_let_in(&both, &ca, &[("of an authority that has expired", &early, false), ("alice", &alice, true)]);
}

#[test]
fn a_certificate_that_cannot_be_read_is_refused_though_its_signature_is_good() {
    let (folder, ca) = (Folder::new("unread"), authority("ca"));
    let server = leaf(&ca, "server", 1, 10);
    let pem = ca.pem();
    for has_list in [false, true] {
        let crl = if has_list { folder.write("ca.crl", crl(&ca, &[9])) } else { String::new() };
        let files = TlsFiles { crl, ..files(&folder, &server, Some(&pem)) };
        let port = Arc::new(Port::open(&tls(files), Side::Client).unwrap());
        let stop = Arc::default();
        let (address, executor) = echo(port, Arc::clone(&stop));
        let alice = leaf(&ca, "alice", 2, 10);
        assert_eq!(name_of(address, &pem, Some(&alice)).unwrap(), "alice");
        let same = resigned(&ca, &alice, b"alice", |_| ());
        assert_eq!(name_of(address, &pem, Some(&same)).unwrap(), "alice", "signed anew, and nothing else");
        // SET { SEQUENCE { OBJECT IDENTIFIER 2.5.4.3, UTF8String } }: the set is none.
        let odd = resigned(&ca, &alice, b"alice", |before| {
            let set = before.len() - 11;
            assert_eq!(before[set], 0x31);
            before[set] = 0x30;
        });
        assert!(name_of(address, &pem, Some(&odd)).is_err(), "with a list of revoked ones: {has_list}");
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        executor.join().unwrap();
    }
}

#[test]
fn names_behind_garbage_are_not_left_out() {
    let ca = authority("ca");
    let alice = leaf(&ca, "alice", 2, 10);
    let read = |leaf: &Leaf| Facts::read(&CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap());
    assert_eq!(read(&alice).unwrap().dns_names, ["localhost"]);
    // The name is said to be longer than all names are.
    let long = resigned(&ca, &alice, b"localhost", |before| *before.last_mut().unwrap() = 0x7f);
    assert_eq!(read(&long), None);
    // An address of five bytes takes the place of the last four and their length.
    let short = resigned(&ca, &alice, &[127, 0, 0, 1], |before| *before.last_mut().unwrap() = 3);
    assert_eq!(read(&short), None);
}

#[test]
fn keys_of_every_kind_are_taken_of_servers_clients_and_authorities() {
    let folder = Folder::new("keys");
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512, &PKCS_ED25519] {
        let key = || KeyPair::generate_for(kind).unwrap();
        let ca = authority_with("ca", key());
        let (server, alice) = (leaf_with(&ca, "server", 1, 10, key()), leaf_with(&ca, "alice", 2, 10, key()));
        let port = Port::open(&tls(files(&folder, &server, Some(&ca.pem()))), Side::Client).unwrap();
        let stop = Arc::default();
        let (address, executor) = echo(Arc::new(port), Arc::clone(&stop));
        assert_eq!(name_of(address, &ca.pem(), Some(&alice)).unwrap(), "alice", "{kind:?}");
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        executor.join().unwrap();
    }
}

#[test]
fn suite_and_curve_are_those_that_etcd_would_choose() {
    let (folder, ca) = (Folder::new("suites"), authority("ca"));
    let port = Port::open(&tls(files(&folder, &leaf(&ca, "server", 1, 10), None)), Side::Client).unwrap();
    let chosen = |suite: usize, group: &'static dyn SupportedKxGroup| {
        let mut offered = aws_lc_rs::default_provider();
        // Another one comes first.
        offered.cipher_suites.rotate_left(suite);
        offered.kx_groups = vec![group];
        let mut client = session_with(offered, &ca.pem(), None);
        let mut server = ServerConnection::new(port.live().server.unwrap()).unwrap();
        agree(&mut client, &mut server);
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        (suite, client.negotiated_key_exchange_group().unwrap().name())
    };
    for suite in 0..3 {
        let chosen = chosen(suite, aws_lc_rs::kx_group::X25519);
        assert_eq!(chosen, (CipherSuite::TLS13_AES_128_GCM_SHA256, NamedGroup::X25519));
    }
    for group in provider().kx_groups {
        assert_eq!(chosen(0, group).1, group.name());
    }
    let mut client = client_session(&ca.pem(), None);
    let mut server = ServerConnection::new(port.live().server.unwrap()).unwrap();
    agree(&mut client, &mut server);
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

/// Both sides speak until they have agreed.
fn agree(client: &mut ClientConnection, server: &mut ServerConnection) {
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        if !bytes.is_empty() {
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

#[test]
fn bytes_behind_the_end_of_a_session_end_its_handshake() {
    let (folder, ca) = (Folder::new("ended"), authority("ca"));
    let files = files(&folder, &leaf(&ca, "server", 1, 10), None);
    let port = Port::open(&tls(files), Side::Client).unwrap();
    let mut client = client_session(&ca.pem(), None);
    let mut server = ServerConnection::new(port.live().server.unwrap()).unwrap();
    agree(&mut client, &mut server);
    let mut bytes = Vec::new();
    client.send_close_notify();
    client.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut &bytes[..]).unwrap();
    server.process_new_packets().unwrap();
    let listening = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let port = listening.local_addr().unwrap().port();
    let run = move || async move {
        let workers = Workers::start(1).unwrap();
        let patience = std::time::Duration::from_secs(5);
        let mut tcp = dial::dial("127.0.0.1", port, None, patience).await.unwrap();
        let opening = handshake::open(&workers, &mut tcp, Box::new(server.into()), b"and more");
        let opened = task::until(crate::server::io::clock::now() + patience, opening).await;
        let Some(Err(refusal)) = opened else { panic!("nothing is read behind the end") };
        assert!(refusal.is_end, "{}", refusal.why);
    };
    executor::spawn("ended", None, 64, run).unwrap().join().unwrap();
    drop(listening);
}

#[test]
fn what_is_wrong_with_files_is_said_with_their_names() {
    let (folder, ca) = (Folder::new("wrong"), authority("ca"));
    let (one, two) = (leaf(&ca, "one", 1, 10), leaf(&ca, "two", 2, 10));
    let good = files(&folder, &one, Some(&ca.pem()));
    let open = |files: TlsFiles| Port::open(&tls(files), Side::Peer).map(drop);
    open(good.clone()).unwrap();
    let wrong = |name: &str, bytes: &str| folder.write(name, bytes);
    for (files, text) in [
        (TlsFiles { cert: "/none".into(), ..good.clone() }, "open /none: no such file or directory"),
        (TlsFiles { key: wrong("a", &two.key), ..good.clone() }, "private key does not match public key"),
        (TlsFiles { key: wrong("b", "x"), ..good.clone() }, "failed to find any PEM data in key input"),
        (TlsFiles { cert: wrong("c", &one.key), ..good.clone() }, "failed to find \"CERTIFICATE\" PEM block"),
        (
            TlsFiles { cert: wrong("d", ""), ..good.clone() },
            "failed to find any PEM data in certificate input",
        ),
        (TlsFiles { trusted_ca: wrong("e", ""), ..good.clone() }, "cannot verify client certificates"),
        (TlsFiles { crl: wrong("f", "x"), ..good.clone() }, "malformed crl"),
        (
            TlsFiles { key: String::new(), ..good.clone() },
            "KeyFile and CertFile must both be present[key: , cert: ",
        ),
        (
            TlsFiles { client_key: "x".into(), ..good.clone() },
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: x, cert: ]",
        ),
        (
            TlsFiles {
                allowed_cns: vec!["a".into(), "b".into()],
                allowed_hostnames: vec!["c".into()],
                ..good.clone()
            },
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\" \"b\"], hostnames=[\"c\"])",
        ),
    ] {
        let error = open(files).unwrap_err();
        assert!(error.contains(text), "{error}, not {text}");
    }
    assert!(files::read(&Path::new("/none").display().to_string()).is_err());
}
