//! Who gets in, and how the way is protected: psql and tokio-postgres, passwords, certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::server::{self, Server, execute, failure, query};

/// The verifier of `pencil`, as PostgreSQL makes it.
pub const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

pub async fn login(server: &Server, user: &str, password: Option<&str>) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    let (host, port) = server.sql.rsplit_once(':').unwrap();
    config.host(host).port(port.parse().unwrap()).user(user).dbname("tidemill");
    if let Some(password) = password {
        config.password(password);
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|error| match error.as_db_error() {
        Some(error) => format!("{} {}", error.code().code(), error.message()),
        // Its text names the kind, its source the reason.
        None => std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string),
    })?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn refusal(server: &Server, user: &str, password: Option<&str>) -> String {
    match login(server, user, password).await {
        Ok(_) => panic!("{user} was let in"),
        Err(error) => error,
    }
}

/// What psql prints for a query, connecting with these words.
fn psql(server: &Server, words: &str, password: Option<&str>, sql: &str) -> Result<String, String> {
    let (host, port) = server.sql.rsplit_once(':').unwrap();
    let connection = format!("host={host} port={port} user=tidemill dbname=tidemill {words}");
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--no-password", "-At", "-d", &connection, "-c", sql]);
    command.env_remove("PGPASSWORD");
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let output = command.output().expect("psql can be run");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_asked_for_once_there_is_one() {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let said = refusal(&server, "root", None).await;
    assert_eq!(
        said, "28000 role \"root\" does not exist",
        "nobody has a password that it could be asked for"
    );
    execute(&client, "ALTER ROLE tidemill PASSWORD 'secret'").await;
    execute(&client, &format!("CREATE ROLE bob LOGIN PASSWORD '{PENCIL}'")).await;
    execute(&client, "CREATE ROLE lazy LOGIN; CREATE ROLE team PASSWORD 'secret'").await;
    execute(&client, "CREATE ROLE late LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01'").await;
    for _ in 0..2 {
        assert!(refusal(&server, "tidemill", None).await.contains("password"));
        for password in ["secret", "pencil"] {
            let user = if password == "secret" { "tidemill" } else { "bob" };
            let client = login(&server, user, Some(password)).await.unwrap();
            assert_eq!(query(&client, "SELECT current_user").await, [[user]]);
            assert_eq!(psql(&server, &format!("user={user}"), Some(password), "SELECT 1").unwrap(), "1");
        }
        assert!(psql(&server, "", None, "SELECT 1").unwrap_err().contains("no password supplied"));
        assert_eq!(
            refusal(&server, "team", Some("secret")).await,
            "28000 role \"team\" is not permitted to log in"
        );
        server.kill_and_restart().await;
    }
    // Who is not there, has none, or had one, looks like whose password is another.
    for user in ["bob", "nobody", "lazy", "late"] {
        let said = refusal(&server, user, Some("wrong")).await;
        assert_eq!(said, format!("28P01 password authentication failed for user \"{user}\""));
    }
    assert_eq!(
        refusal(&server, "late", Some("secret")).await,
        "28P01 password authentication failed for user \"late\""
    );
    assert!(!server.log_tail().contains("secret") && !server.log_tail().contains("pencil"));
    // Who came and who did not is on record, here and in the log.
    let client = login(&server, "tidemill", Some("secret")).await.unwrap();
    let sql = "SELECT \"user\", sqlstate FROM tm_audit_log WHERE action = 'login' AND address LIKE '127.0.0.1:%' \
               GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(
        query(&client, sql).await,
        [["bob", "28P01"], ["late", "28P01"], ["lazy", "28P01"], ["nobody", "28P01"], ["tidemill", "00000"]]
    );
    assert!(server.log_tail().contains("tidemill::audit"), "{}", server.log_tail());
}

/// What a server asks of a user before it can know a password: the salt.
async fn salt(server: &Server, user: &str) -> String {
    let mut socket = TcpStream::connect(&server.sql).await.unwrap();
    socket.write_all(&startup(user)).await.unwrap();
    let mut asked = vec![0; 1024];
    let n = socket.read(&mut asked).await.unwrap();
    assert!(String::from_utf8_lossy(&asked[..n]).contains("SCRAM-SHA-256"), "{:?}", &asked[..n]);
    let first = b"n,,n=,r=abcdefgh";
    let mut message = b"SCRAM-SHA-256\0".to_vec();
    message.extend((first.len() as u32).to_be_bytes());
    message.extend(first);
    let mut framed = b"p".to_vec();
    framed.extend((message.len() as u32 + 4).to_be_bytes());
    framed.extend(message);
    socket.write_all(&framed).await.unwrap();
    let n = socket.read(&mut asked).await.unwrap();
    let answer = String::from_utf8_lossy(&asked[9..n]).into_owned();
    let salt = answer.split(',').find_map(|part| part.strip_prefix("s=")).expect("a salt").to_owned();
    assert!(answer.ends_with(",i=4096"), "{answer}");
    salt
}

fn startup(user: &str) -> Vec<u8> {
    let body = format!("user\0{user}\0database\0tidemill\0\0");
    let mut message = (body.len() as u32 + 8).to_be_bytes().to_vec();
    message.extend(196_608u32.to_be_bytes());
    message.extend(body.bytes());
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_not_there_has_a_salt_that_stays() {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    execute(&server.connect().await, "ALTER ROLE tidemill PASSWORD 'secret'").await;
    let (known, unknown) = (salt(&server, "tidemill").await, salt(&server, "nobody").await);
    assert_eq!(known.len(), unknown.len());
    assert_ne!(unknown, salt(&server, "somebody").await);
    server.kill_and_restart().await;
    assert_eq!((salt(&server, "tidemill").await, salt(&server, "nobody").await), (known, unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_slow_and_connections_are_counted() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    execute(&client, "CREATE ROLE bob LOGIN PASSWORD 'secret' CONNECTION LIMIT 1").await;
    let first = login(&server, "bob", Some("secret")).await.unwrap();
    assert_eq!(refusal(&server, "bob", Some("secret")).await, "53300 too many connections for role \"bob\"");
    assert_eq!(failure(&first, "CREATE TABLE t (a INT)").await.code().code(), "42501");
    execute(&client, "ALTER ROLE bob CONNECTION LIMIT -1; REVOKE CONNECT ON DATABASE tidemill FROM PUBLIC")
        .await;
    assert_eq!(
        refusal(&server, "bob", Some("secret")).await,
        "42501 permission denied for database \"tidemill\""
    );
    execute(&client, "GRANT CONNECT ON DATABASE tidemill TO bob").await;
    login(&server, "bob", Some("secret")).await.unwrap();
    // Nonsense instead of a password is an error, and the server goes on.
    for message in
        [&b"p\0\0\0\x05x"[..], b"Q\0\0\0\x05\0", b"p\xff\xff\xff\xff", b"p\0\0\0\x0bM\0\xff\xff\xff\x01x"]
    {
        let mut socket = TcpStream::connect(&server.sql).await.unwrap();
        socket.write_all(&startup("bob")).await.unwrap();
        let mut answer = [0; 1024];
        assert!(socket.read(&mut answer).await.unwrap() > 0);
        socket.write_all(message).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut rest)).await;
        read.unwrap_or_else(|_| panic!("no answer to {message:?}")).unwrap();
        assert!(String::from_utf8_lossy(&rest).contains("08P01"), "{message:?}: {rest:?}");
    }
    let began = Instant::now();
    for _ in 0..2 {
        refusal(&server, "bob", Some("wrong")).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1400), "half a second, then a whole one: {took:?}");
    // The superuser without a password is not guessed at.
    server.connect().await;
}

/// What `tidemill start` says that ends at once.
fn start_refused(directory: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["start", "--data", &directory.join("data").display().to_string()])
        .args(args)
        .output()
        .expect("the binary can be run");
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_without_a_password_from_elsewhere() {
    let directory = server::directory();
    let path = directory.path();
    let exposed = ["--listen", "0.0.0.0:0", "--http", "off"];
    let said = start_refused(path, &exposed);
    assert!(said.contains("asks nobody for a password") && said.contains("--password-file"), "{said}");
    let said = start_refused(path, &[&exposed[..], &["--auth", "trust"]].concat());
    assert!(said.contains("asks nobody for a password"), "{said}");
    let said = start_refused(path, &["--http", "0.0.0.0:0", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("HTTP listens on"), "{said}");
    let password = path.join("password");
    let said =
        start_refused(path, &[&exposed[..], &["--password-file", password.to_str().unwrap()]].concat());
    assert!(said.contains("cannot read the password file"), "{said}");

    fs::write(&password, "secret\n").unwrap();
    let ready = path.join("ready.json");
    let mut process = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["start", "--data", &path.join("data").display().to_string()])
        .args(exposed)
        .args(["--password-file", password.to_str().unwrap(), "--ready-file", ready.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary can be run");
    let deadline = Instant::now() + server::TIMEOUT;
    while !ready.exists() {
        assert!(process.try_wait().unwrap().is_none() && Instant::now() < deadline, "it does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.kill().unwrap();
    process.wait().unwrap();
    // The password was set, and is asked for from here, too; another file does not change it.
    fs::write(&password, "other\n").unwrap();
    let server = Server::start_with(path, &["--password-file", password.to_str().unwrap()]).await;
    assert!(refusal(&server, "tidemill", None).await.contains("password"));
    login(&server, "tidemill", Some("secret")).await.unwrap();
}

// ---- Secrets -------------------------------------------------------------------------------

/// A file with keys, as it must be for the server to take it.
fn key_file(path: &Path, keys: &[&str]) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = path.join("keys");
    fs::write(&file, keys.join("\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

/// Whether a text stands in any file below a directory.
fn is_written(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| match entry.path() {
        path if path.is_dir() => is_written(&path, text),
        path => {
            let content = fs::read(path).unwrap_or_default();
            content.windows(text.len()).any(|window| window == text.as_bytes())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_encrypted_with_a_key_of_the_servers() {
    let directory = server::directory();
    let path = directory.path();
    let (first, second) = ("1".repeat(64), "2".repeat(64));
    let mut server = Server::start_in(path, path, &[]).await;
    let client = server.connect().await;
    let refused = failure(&client, "CREATE SECRET place AS 'hunter2'").await;
    assert_eq!(refused.code().code(), "55000");
    assert!(refused.hint().unwrap().contains("TIDEMILL_SECRET_KEY"), "{refused:?}");
    server.terminate().await;

    let keys = key_file(path, &[&first]);
    let mut server = Server::start_in(path, path, &["--secret-key-file", &keys]).await;
    let client = server.connect().await;
    execute(&client, "CREATE SECRET place AS 'hunter2'; CREATE TABLE t (a INT)").await;
    execute(
        &client,
        "CREATE SINK k FROM t WITH (connector = 'file', path = SECRET place) FORMAT DEBEZIUM ENCODE JSON",
    )
    .await;
    execute(&client, "INSERT INTO t VALUES (1)").await;
    execute(&client, "ALTER SECRET place AS 'hunter22'").await;
    failure(&client, "CREATE SECRET other 'hunter2'").await;
    failure(&client, "CREATE SECRET place AS 'hunter2'").await;
    execute(&client, "DROP SINK k; DROP TABLE t").await;
    server.terminate().await;
    assert!(!is_written(path, "hunter2"), "{}", server.log_tail());

    // Nothing starts that would fail later, and nothing is lost by it.
    let lost = "secret place is encrypted with a key that the server was not given";
    let start = ["--listen", "127.0.0.1:0", "--http", "off"];
    let said = start_refused(path, &start);
    assert!(said.contains(lost) && said.contains("there is no key"), "{said}");
    let other = key_file(path, &[&second]);
    let said = start_refused(path, &[&start[..], &["--secret-key-file", &other]].concat());
    assert!(said.contains(lost) && said.contains("hint: Give the key back"), "{said}");

    // A new key in front of the old one; from then on the old one is not needed.
    let both = key_file(path, &[&second, &first]);
    let mut server = Server::start_in(path, path, &["--secret-key-file", &both]).await;
    server.terminate().await;
    let only = key_file(path, &[&second]);
    let server = Server::start_in(path, path, &["--secret-key-file", &only]).await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT name FROM tm_secrets").await, [["place"]]);

    let mode = |mode| fs::set_permissions(&only, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let elsewhere = server::directory();
    let said = start_refused(elsewhere.path(), &[&start[..], &["--secret-key-file", &only]].concat());
    assert!(said.contains("can be read by others"), "{said}");
}

// ---- Certificates --------------------------------------------------------------------------

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate and its key.
    fn issue(&self, certificate: &Path, key: &Path, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "tidemill");
        let pair = KeyPair::generate().unwrap();
        fs::write(certificate, params.signed_by(&pair, &self.issuer).unwrap().pem()).unwrap();
        write_private(key, &pair.serialize_pem());
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Files {
    fn new(directory: &Path, authority: &Authority) -> Files {
        let at = |name: &str| directory.join(name);
        let files = Files { certificate: at("server.pem"), key: at("server.key"), ca: at("ca.pem") };
        files.write(authority);
        files
    }

    fn write(&self, authority: &Authority) {
        authority.issue(&self.certificate, &self.key, &["localhost", "127.0.0.1"]);
        fs::write(&self.ca, &authority.pem).unwrap();
    }

    fn args(&self) -> [&str; 4] {
        ["--tls-cert", self.certificate.to_str().unwrap(), "--tls-key", self.key.to_str().unwrap()]
    }

    fn verify(&self) -> String {
        format!("sslmode=verify-full sslrootcert={}", self.ca.display())
    }
}

async fn handshake(address: &str, ca: &str, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// `GET /healthz` over TLS.
async fn healthz(server: &Server, ca: &str) -> Result<String, String> {
    let mut stream = handshake(&server.http, ca, &[]).await.map_err(|error| error.to_string())?;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_and_certificates_renewed() {
    let directory = server::directory();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let files = Files::new(directory.path(), &first);
    let server = Server::start_with(directory.path(), &files.args()).await;
    let plain = server.connect().await;
    execute(&plain, "ALTER ROLE tidemill PASSWORD 'secret'").await;
    let sql = |words: &str| psql(&server, words, Some("secret"), "SELECT 1");
    for words in [
        "sslmode=disable",
        "sslmode=require",
        &files.verify(),
        &format!("{} channel_binding=require", files.verify()),
        "sslmode=require channel_binding=disable",
    ] {
        assert_eq!(sql(words), Ok("1".into()), "{words}");
    }
    let said = psql(&server, "sslmode=require", None, "\\conninfo").unwrap_err();
    assert!(said.contains("no password supplied"), "{said}");
    let info = psql(&server, &files.verify(), Some("secret"), "\\conninfo").unwrap();
    assert!(info.contains("TLSv1.3"), "{info}");
    let wrong = psql(&server, &files.verify(), Some("wrong"), "SELECT 1").unwrap_err();
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    assert!(healthz(&server, &first.pem).await.unwrap().ends_with("ok\n"));

    // A new certificate of another authority: read at SIGHUP, while what there is goes on.
    let files_before = fs::read(&files.certificate).unwrap();
    files.write(&second);
    fs::write(directory.path().join("old-ca.pem"), &first.pem).unwrap();
    assert!(sql(&files.verify()).is_err(), "it was not told yet");
    server.signal("HUP");
    let deadline = Instant::now() + server::TIMEOUT;
    while sql(&files.verify()).is_err() {
        assert!(Instant::now() < deadline, "{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let old = format!("sslmode=verify-full sslrootcert={}", directory.path().join("old-ca.pem").display());
    assert!(sql(&old).unwrap_err().contains("certificate verify failed"));
    assert!(healthz(&server, &second.pem).await.unwrap().ends_with("ok\n"));
    assert!(healthz(&server, &first.pem).await.is_err());
    assert_eq!(query(&plain, "SELECT 1").await, [["1"]], "from before, and still there");
    // A certificate that does not go with its key is not taken.
    fs::write(&files.certificate, files_before).unwrap();
    server.signal("HUP");
    while !server.log_tail().contains("certificates not read again") {
        assert!(Instant::now() < deadline, "{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sql(&files.verify()), Ok("1".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_can_be_required_and_nothing_slips_in_before_it() {
    let directory = server::directory();
    let authority = Authority::new("ours");
    let files = Files::new(directory.path(), &authority);
    let args = [&files.args()[..], &["--tls-required"]].concat();
    let server = Server::start_with(directory.path(), &args).await;
    let said = psql(&server, "sslmode=disable", None, "SELECT 1").unwrap_err();
    assert!(said.contains("encrypted connections only"), "{said}");
    assert_eq!(psql(&server, "sslmode=require", None, "SELECT 1"), Ok("1".into()));

    // What was sent in the clear behind the question is not taken for what came encrypted.
    let mut socket = TcpStream::connect(&server.sql).await.unwrap();
    let mut sent = [0, 0, 0, 8, 4, 210, 22, 47].to_vec();
    sent.extend(startup("tidemill"));
    socket.write_all(&sent).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await.unwrap().ok();
    assert_eq!(answer.first(), Some(&b'S'));
    assert!(!answer.contains(&b'R') || answer.len() < 30, "no session came of it: {answer:?}");

    // Encrypted from the first byte on, as libpq 17 does it when it is told to.
    let mut direct = handshake(&server.sql, &authority.pem, &[b"postgresql"]).await.unwrap();
    direct.write_all(&startup("tidemill")).await.unwrap();
    let mut answer = [0; 9];
    direct.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"R\0\0\0\x08\0\0\0\0");
    // Without the protocol's name it could be a browser that was led here.
    let mut unnamed = handshake(&server.sql, &authority.pem, &[]).await.unwrap();
    let _ = unnamed.write_all(&startup("tidemill")).await;
    let mut answer = Vec::new();
    let _ = unnamed.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");

    // A server that has no certificate declines, in the same words as ever.
    let other = server::directory();
    let without = Server::start(other.path()).await;
    assert!(
        psql(&without, "sslmode=require", None, "SELECT 1").unwrap_err().contains("does not support SSL")
    );
    assert_eq!(psql(&without, "sslmode=prefer", None, "SELECT 1"), Ok("1".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_show_certificates_where_they_must() {
    let directory = server::directory();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files::new(directory.path(), &ours);
    let at = |name: &str| directory.path().join(name);
    ours.issue(&at("client.pem"), &at("client.key"), &[]);
    theirs.issue(&at("stranger.pem"), &at("stranger.key"), &[]);
    let args = [&files.args()[..], &["--tls-client-ca", files.ca.to_str().unwrap()]].concat();
    let server = Server::start_with(directory.path(), &args).await;
    let with = |name: &str| {
        let (cert, key) = (at(&format!("{name}.pem")), at(&format!("{name}.key")));
        format!("{} sslcert={} sslkey={}", files.verify(), cert.display(), key.display())
    };
    assert_eq!(psql(&server, &with("client"), None, "SELECT 1"), Ok("1".into()));
    assert!(psql(&server, &with("stranger"), None, "SELECT 1").is_err());
    let none = format!("{} sslcert=/nowhere", files.verify());
    assert!(psql(&server, &none, None, "SELECT 1").is_err());
    assert!(healthz(&server, &ours.pem).await.is_err(), "HTTP asks as well");

    // Files that are wrong are named.
    let readable = server::directory();
    let files = Files::new(readable.path(), &ours);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&files.key, mode).unwrap();
    let said = start_refused(readable.path(), &files.args());
    assert!(said.contains("can be read by others") && said.contains("chmod"), "{said}");
    fs::remove_file(&files.key).unwrap();
    let said = start_refused(readable.path(), &files.args());
    assert!(said.contains("cannot read the key"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_others_are_left_alone() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let root = server.connect().await;
    execute(&root, "CREATE ROLE ann LOGIN PASSWORD 'a'; CREATE ROLE bob LOGIN PASSWORD 'b'").await;
    let ann = login(&server, "ann", Some("a")).await.unwrap();
    let bob = login(&server, "bob", Some("b")).await.unwrap();
    let pid = async |client: &Client| query(client, "SELECT pg_backend_pid()").await[0][0].clone();
    let (of_root, of_ann, of_bob) = (pid(&root).await, pid(&ann).await, pid(&bob).await);
    for other in [&of_root, &of_bob] {
        for function in ["pg_cancel_backend", "pg_terminate_backend"] {
            let refused = failure(&ann, &format!("SELECT {function}({other})")).await;
            assert_eq!(refused.code().code(), "42501", "{function}");
        }
        let seen = format!("SELECT query, state IS NULL FROM pg_stat_activity WHERE pid = {other}");
        assert_eq!(query(&ann, &seen).await, [["<insufficient privilege>", "t"]]);
    }
    execute(&root, "GRANT bob TO ann").await;
    assert_eq!(query(&ann, &format!("SELECT pg_terminate_backend({of_bob})")).await, [["t"]]);
    assert_eq!(query(&root, &format!("SELECT pg_terminate_backend({of_ann})")).await, [["t"]]);
}
