//! SCRAM-SHA-256 (RFC 5802, RFC 7677): what is kept of a password, and how a client proves that it knows it.
//!
//! The server keeps a verifier, in PostgreSQL's own text form, from which the password cannot be had and with which
//! nobody can log in. Who is unknown, or has no password, goes through the same exchange with a verifier that is made up
//! and that no password fits, so that neither the answers nor the time that they take tell who exists.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{ScramSecret, ScramServerAuth, gen_salted_password};
use pgwire::api::auth::sasl::{SCRAM_SHA_256_METHOD, SCRAM_SHA_256_PLUS_METHOD};
use pgwire::error::PgWireError;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::startup::Authentication;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use tidemill_core::SqlState;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pgwire::connection::{Failure, Inbound, Outbound, protocol_violation};
use crate::session::api::SqlError;

/// As PostgreSQL has it; RFC 7677 asks for at least as many.
pub const ITERATIONS: usize = 4096;

const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;

/// Who checks a password could be made to work for long by a verifier of its own.
const ITERATIONS_MAX: usize = 1_000_000;

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: usize,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

/// Bytes that nobody can guess.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes, or nothing here is safe");
    bytes
}

impl Verifier {
    /// Of a password, with a salt of its own.
    pub fn of_password(password: &str) -> Verifier {
        Verifier::salted(password, random_bytes::<SALT_BYTES>().to_vec(), ITERATIONS)
    }

    fn salted(password: &str, salt: Vec<u8>, iterations: usize) -> Verifier {
        let salted_password = gen_salted_password(password, &salt, iterations);
        match ScramSecret::verifier_from_salted_password(salt, salted_password, iterations) {
            ScramSecret::Verifier { salt, iterations, stored_key, server_key } => {
                Verifier { iterations, salt, stored_key, server_key }
            }
            ScramSecret::SaltedPassword { .. } => unreachable!("a verifier was asked for"),
        }
    }

    /// One that no password fits. The same name gets the same salt, as that of a role would be.
    pub fn of_nobody(name: &str, secret: &[u8]) -> Verifier {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), name.as_bytes());
        Verifier {
            iterations: ITERATIONS,
            salt: tag.as_ref()[..SALT_BYTES].to_vec(),
            stored_key: random_bytes::<KEY_BYTES>().to_vec(),
            server_key: random_bytes::<KEY_BYTES>().to_vec(),
        }
    }

    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`
    pub fn parse(text: &str) -> Option<Verifier> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|n| (1..=ITERATIONS_MAX).contains(n))?;
        let decode = |text: &str| STANDARD.decode(text).ok();
        let key = |text: &str| decode(text).filter(|key| key.len() == KEY_BYTES);
        let salt = decode(salt).filter(|salt| !salt.is_empty())?;
        Some(Verifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// What [`parse`](Verifier::parse) reads.
    pub fn text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(&self.stored_key),
            STANDARD.encode(&self.server_key)
        )
    }

    /// Whether this is the password. Nobody sends one to the server, so only tests ask.
    #[cfg(test)]
    pub fn fits(&self, password: &str) -> bool {
        *self == Verifier::salted(password, self.salt.clone(), self.iterations)
    }

    /// Something that only who has read the catalog knows.
    pub fn secret(&self) -> &[u8] {
        &self.server_key
    }

    fn into_secret(self) -> ScramSecret {
        let Verifier { iterations, salt, stored_key, server_key } = self;
        ScramSecret::Verifier { iterations, salt, stored_key, server_key }
    }
}

/// Has a client prove that it knows the password. `certificate` is the server's own, in PEM, on an encrypted connection: the
/// proof is then good for this connection alone.
pub(crate) async fn authenticate<S: AsyncRead + AsyncWrite>(
    inbound: &mut Inbound<S>,
    outbound: &mut Outbound<S>,
    user: &str,
    verifier: Verifier,
    certificate: Option<&[u8]>,
) -> Result<(), Failure> {
    let mut server = ScramServerAuth::new();
    if let Some(certificate) = certificate {
        // Certificates that are signed in a way for which no binding is defined go without.
        let _ = server.configure_certificate(certificate);
    }
    let mut mechanisms = vec![SCRAM_SHA_256_METHOD.to_owned()];
    if server.supports_channel_binding() {
        mechanisms.insert(0, SCRAM_SHA_256_PLUS_METHOD.to_owned());
    }
    let ask = |outbound: &mut Outbound<S>, message| {
        outbound.put(PgWireBackendMessage::Authentication(message));
    };
    ask(outbound, Authentication::SASL(mechanisms.clone()));
    outbound.flush().await?;

    let malformed = |_| malformed();
    let first = inbound.password().await?;
    let (mechanism, first_message) = initial_response(&first).ok_or_else(self::malformed)?;
    if !mechanisms.iter().any(|known| known.as_bytes() == mechanism) {
        let error = protocol_violation("client selected an invalid SASL authentication mechanism");
        return Err(error.into());
    }
    // Each mechanism goes with one kind of first message; pgwire looks at the message alone.
    let is_bound = first_message.starts_with(b"p=");
    if is_bound != (mechanism == SCRAM_SHA_256_PLUS_METHOD.as_bytes()) {
        return Err(self::malformed().into());
    }
    let secret = verifier.into_secret();
    let (challenge, waiting) =
        server.on_client_first_message_with_secret(first_message, secret).map_err(malformed)?;
    ask(outbound, Authentication::SASLContinue(challenge.into()));
    outbound.flush().await?;

    let last = inbound.password().await?;
    match waiting.on_client_final_message(&last) {
        Ok(proof) => {
            ask(outbound, Authentication::SASLFinal(proof.into()));
            Ok(())
        }
        Err(PgWireError::InvalidPassword(_)) => Err(wrong_password(user).into()),
        Err(_) => Err(self::malformed().into()),
    }
}

/// Mechanism and first message of `SASLInitialResponse`. pgwire's own decoder trusts its lengths.
fn initial_response(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (length, message) = body[end + 1..].split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        // No message, which a client may say and none does.
        -1 => Some((&body[..end], &[])),
        length => Some((&body[..end], message)).filter(|_| usize::try_from(length) == Ok(message.len())),
    }
}

/// The same whether the role has another password, none, or does not exist.
pub(crate) fn wrong_password(user: &str) -> SqlError {
    SqlError::new(SqlState("28P01"), format!("password authentication failed for user \"{user}\""))
}

fn malformed() -> SqlError {
    protocol_violation("malformed SCRAM message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_fits_its_password_alone() {
        let verifier = Verifier::of_password("pencil");
        assert!(verifier.fits("pencil"));
        assert!(!verifier.fits("Pencil") && !verifier.fits(""));
        assert_ne!(verifier, Verifier::of_password("pencil"), "each has a salt of its own");
        assert_eq!(Verifier::parse(&verifier.text()), Some(verifier));
    }

    #[test]
    fn it_is_postgresqls() {
        // PostgreSQL 16: the salt of RFC 7677's example, `pencil`.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::salted("pencil", salt, 4096);
        assert_eq!(
            verifier.text(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn what_is_no_verifier_is_not_taken_for_one() {
        let text = Verifier::of_password("x").text();
        for wrong in [
            "md5a3556571e93b0d20722ba62be61e8c2d",
            "SCRAM-SHA-256$4096:$:",
            &text[..text.len() - 4],
            &text.replace("4096", "0"),
            &text.replace("4096", "999999999"),
            &text.replace('$', "#"),
        ] {
            assert_eq!(Verifier::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nobody_has_a_salt_that_stays_and_no_password() {
        let (one, other) = (Verifier::of_nobody("eve", b"s"), Verifier::of_nobody("eve", b"s"));
        assert_eq!(one.salt, other.salt);
        assert_ne!(one.salt, Verifier::of_nobody("ann", b"s").salt);
        assert_ne!(one.salt, Verifier::of_nobody("eve", b"t").salt);
        assert_eq!((one.salt.len(), one.iterations), (SALT_BYTES, ITERATIONS));
        assert!(!one.fits("") && !one.fits("eve"));
    }

    #[test]
    fn lengths_of_a_first_message_are_not_trusted() {
        assert_eq!(initial_response(b"M\0\0\0\0\x02ab"), Some((&b"M"[..], &b"ab"[..])));
        assert_eq!(initial_response(b"M\0\xff\xff\xff\xff"), Some((&b"M"[..], &b""[..])));
        for wrong in [
            &b""[..],
            b"M",
            b"M\0",
            b"M\0\0\0",
            b"M\0\0\0\0\x03ab",
            b"M\0\xff\xff\xff\xfeab",
            b"M\0\0\0\0\x01ab",
        ] {
            assert_eq!(initial_response(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn verifiers_are_not_printed() {
        assert_eq!(format!("{:?}", Verifier::of_password("x")), "Verifier(…)");
    }
}
