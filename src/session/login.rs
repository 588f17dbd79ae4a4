//! Who gets a session: what a client has to show, and what its role has to be allowed.
//!
//! Before a client has shown a password it learns nothing of roles: one that does not exist, has no password or one that has expired
//! is asked for a password like any other, and no password is right.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_catalog::{BOOTSTRAP, Catalog, Privilege, Role, Target, Verifier as VerifierText};
use tidemill_core::SqlState;

use super::Session;
use super::api::{Admission, SqlError, StartupParams};
use crate::config::Auth;
use crate::database::Database;
use crate::pgwire::scram::{Verifier, random_bytes};

/// The only database, and the name that tools try when they have none.
const DATABASES: [&str; 2] = ["tidemill", "postgres"];

/// How clients are let in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Authentication {
    pub auth: Auth,
    /// Whether what holds on loopback holds everywhere.
    pub trusts_everywhere: bool,
}

impl Authentication {
    /// What a client has to show.
    pub fn admit(self, catalog: &Catalog, user: &str, peer: SocketAddr) -> Admission {
        let role = catalog.role(user).ok();
        let is_near = self.trusts_everywhere || peer.ip().to_canonical().is_loopback();
        match self.auth {
            Auth::Trust if is_near => return Admission::Trusted,
            Auth::Local if is_near => match role {
                Some(role) if role.name == BOOTSTRAP && role.verifier.is_none() => return Admission::Trusted,
                None if !catalog.roles().any(|role| role.verifier.is_some()) => {
                    // There is no password that anybody could try, and no role that this would give away.
                    return Admission::Refused(no_role(user).with_hint(format!(
                        "Connect as {BOOTSTRAP}, as in psql -U {BOOTSTRAP}; CREATE ROLE makes others."
                    )));
                }
                _ => (),
            },
            Auth::Local | Auth::Password | Auth::Trust => (),
        }
        let known = role.filter(|role| !has_expired(role)).and_then(|role| role.verifier.as_ref());
        let verifier = known.and_then(|text| Verifier::parse(&text.0));
        Admission::Password(verifier.unwrap_or_else(|| Verifier::of_nobody(user, &secret(catalog))))
    }
}

/// What the salts of roles that are not there are made of: the same after a restart, as real ones are.
fn secret(catalog: &Catalog) -> Vec<u8> {
    static OF_PROCESS: LazyLock<[u8; 32]> = LazyLock::new(random_bytes);
    let mut roles: Vec<&Role> = catalog.roles().collect();
    roles.sort_unstable_by_key(|role| role.oid);
    let first = roles.iter().find_map(|role| Verifier::parse(&role.verifier.as_ref()?.0));
    first.map_or(OF_PROCESS.to_vec(), |verifier| verifier.secret().to_vec())
}

fn has_expired(role: &Role) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    role.valid_until.is_some_and(|until| i128::from(until) < now as i128)
}

/// The session of a client that has shown who it is.
pub fn open(database: &Arc<Database>, startup: StartupParams) -> Result<Session, SqlError> {
    let catalog = database.catalog();
    let user = startup.user.as_str();
    let role = catalog.role(user).map_err(|_| no_role(user))?;
    if !role.can_login {
        return Err(refused(format!("role \"{user}\" is not permitted to log in")).with_hint(format!(
            "A superuser can allow it: ALTER ROLE {} LOGIN.",
            tidemill_sql::parser::quote(user)
        )));
    }
    if !DATABASES.contains(&startup.database.as_str()) {
        return Err(SqlError::new(
            SqlState::UNDEFINED_DATABASE,
            format!("database \"{}\" does not exist", startup.database),
        )
        .with_hint("Connect to the database \"tidemill\".")
        .fatal());
    }
    if !catalog.has_privilege(user, &Target::Database, Privilege::Connect, false) {
        let message = format!("permission denied for database \"{}\"", startup.database);
        return Err(SqlError::new(SqlState("42501"), message)
            .with_detail("User does not have CONNECT privilege.")
            .fatal());
    }
    if let Some(n_max) = role.n_connections_max.filter(|_| !role.is_superuser) {
        // This one is among them.
        let of_role = startup.connections.list().iter().filter(|backend| backend.user == user).count();
        if of_role > n_max as usize {
            let message = format!("too many connections for role \"{user}\"");
            return Err(SqlError::new(SqlState::TOO_MANY_CONNECTIONS, message).fatal());
        }
    }
    let mut session = Session::new(database.clone(), startup.user.clone());
    session.backend_pid = startup.backend.pid;
    session.address = Some(startup.peer);
    session.backend = Some(startup.backend.clone());
    session.connections = Some(startup.connections.clone());
    for (name, value) in &startup.options {
        match name.to_lowercase().as_str() {
            "role" => session.set_role(Some(value.as_str()).filter(|value| *value != "none"), false)?,
            "session_authorization" => session.set_session_user(Some(value), false)?,
            _ => session.settings.set_at_startup(name, value)?,
        }
    }
    startup.backend.note(|activity| {
        activity.user = startup.user.clone();
        activity.database = tidemill_sql::DATABASE.to_owned();
        activity.backend_start = Some(chrono::Utc::now().timestamp_micros());
    });
    session.note_idle();
    Ok(session)
}

fn no_role(user: &str) -> SqlError {
    refused(format!("role \"{user}\" does not exist"))
}

fn refused(message: String) -> SqlError {
    SqlError::new(SqlState::INVALID_AUTHORIZATION, message).fatal()
}

/// What is kept of a password, or of the verifier of one.
pub fn verifier_of(given: &str) -> Result<Option<VerifierText>, SqlError> {
    let invalid = |message: &str| SqlError::new(SqlState::INVALID_PARAMETER, message);
    if given.is_empty() {
        return Ok(None);
    }
    if given.starts_with("SCRAM-SHA-256$") {
        return match Verifier::parse(given) {
            Some(verifier) => Ok(Some(VerifierText(verifier.text()))),
            None => Err(invalid("invalid SCRAM-SHA-256 verifier")
                .with_hint("Its form is SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey.")),
        };
    }
    let is_md5 = given.len() == 35
        && given
            .strip_prefix("md5")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_md5 {
        return Err(SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            "passwords hashed with MD5 are not supported",
        )
        .with_hint("Give the password itself, or a SCRAM-SHA-256 verifier."));
    }
    Ok(Some(VerifierText(Verifier::of_password(given).text())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: &str = "127.0.0.1:5";
    const FAR: &str = "10.0.0.1:5";

    fn admit(auth: Auth, trusts_everywhere: bool, catalog: &Catalog, user: &str, peer: &str) -> String {
        let authentication = Authentication { auth, trusts_everywhere };
        match authentication.admit(catalog, user, peer.parse().unwrap()) {
            Admission::Trusted => "trusted".into(),
            Admission::Password(verifier) => format!("password {}", verifier.fits("secret")),
            Admission::Refused(error) => error.message,
        }
    }

    fn with_password(name: &str, valid_until: Option<i64>) -> Catalog {
        let role = Role {
            can_login: true,
            valid_until,
            verifier: verifier_of("secret").unwrap(),
            ..Role::new(name)
        };
        Catalog::new().create_role(role).unwrap()
    }

    #[test]
    fn a_new_database_lets_its_own_machine_in() {
        let new = Catalog::new();
        assert_eq!(admit(Auth::Local, false, &new, "tidemill", NEAR), "trusted");
        assert_eq!(admit(Auth::Local, false, &new, "tidemill", "[::1]:5"), "trusted");
        assert_eq!(admit(Auth::Local, false, &new, "tidemill", "[::ffff:127.0.0.1]:5"), "trusted");
        assert_eq!(admit(Auth::Local, false, &new, "tidemill", FAR), "password false");
        assert_eq!(admit(Auth::Local, true, &new, "tidemill", FAR), "trusted");
        assert_eq!(admit(Auth::Local, false, &new, "root", NEAR), "role \"root\" does not exist");
        assert_eq!(admit(Auth::Local, false, &new, "root", FAR), "password false");
        assert_eq!(admit(Auth::Password, true, &new, "tidemill", NEAR), "password false");
    }

    #[test]
    fn who_has_a_password_must_know_it() {
        let mut role = Catalog::new().role(BOOTSTRAP).unwrap().clone();
        role.verifier = verifier_of("secret").unwrap();
        let catalog = Catalog::new().alter_role(role).unwrap();
        for (everywhere, peer) in [(false, NEAR), (false, FAR), (true, FAR)] {
            assert_eq!(admit(Auth::Local, everywhere, &catalog, "tidemill", peer), "password true");
            assert_eq!(admit(Auth::Local, everywhere, &catalog, "nobody", peer), "password false");
        }
        assert_eq!(admit(Auth::Trust, false, &catalog, "tidemill", NEAR), "trusted");
        assert_eq!(admit(Auth::Trust, false, &catalog, "tidemill", FAR), "password true");
        assert_eq!(admit(Auth::Trust, true, &catalog, "tidemill", FAR), "trusted");
    }

    #[test]
    fn a_password_ends_with_its_time() {
        assert_eq!(admit(Auth::Local, false, &with_password("ann", None), "ann", NEAR), "password true");
        assert_eq!(
            admit(Auth::Local, false, &with_password("ann", Some(i64::MAX)), "ann", NEAR),
            "password true"
        );
        assert_eq!(admit(Auth::Local, false, &with_password("ann", Some(1)), "ann", NEAR), "password false");
    }

    #[test]
    fn what_is_given_as_a_password_is_kept_as_a_verifier() {
        assert_eq!(verifier_of("").unwrap(), None);
        let text = verifier_of("secret").unwrap().unwrap();
        assert_eq!(verifier_of(&text.0).unwrap(), Some(text), "a verifier is taken as it is");
        assert_eq!(verifier_of("SCRAM-SHA-256$x").unwrap_err().sqlstate.0, "22023");
        assert_eq!(verifier_of("md5a3556571e93b0d20722ba62be61e8c2d").unwrap_err().sqlstate.0, "0A000");
    }
}
