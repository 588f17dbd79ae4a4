//! What `CREATE SECRET` keeps: texts that are sealed with a key from outside of the data.
//!
//! A value is sealed with AES-256-GCM under a nonce of its own, bound to the secret's OID, so that nobody who can write the
//! catalog but has no key can put one secret in the place of another. The catalog says which key it was: the first bytes of the
//! key's SHA-256, which tell nothing of a key that is random. The first of several keys seals, all of them open; what another one than the first
//! has sealed is sealed anew at the next start.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use tidemill_catalog::{Catalog, Definition, Kind, Object, OptionValue, SecretDefinition};
use tidemill_core::SqlState;

use crate::config::Config;
use crate::pgwire::tls::check_key_is_private;
use crate::session::api::SqlError;

const CONFIG_FILE_ERROR: SqlState = SqlState("F0000");
const DATA_CORRUPTED: SqlState = SqlState("XX001");
const KEY_LEN: usize = 32;

/// How to make one, for hints.
const MAKE_KEY: &str = "openssl rand -base64 32 makes a key.";

/// The keys of a server, the newest first.
#[derive(Default)]
pub struct SecretKeys(Vec<Key>);

struct Key {
    id: String,
    key: LessSafeKey,
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|key| key.id.as_str()).collect();
        f.debug_tuple("SecretKeys").field(&ids).finish()
    }
}

impl SecretKeys {
    /// Those that settings name; none where they name none.
    pub fn load(config: &Config) -> Result<SecretKeys, SqlError> {
        if let Some(text) = &config.secret_key.0 {
            return SecretKeys::parse(text, "TIDEMILL_SECRET_KEY");
        }
        if config.secret_key_file.is_empty() {
            return Ok(SecretKeys::default());
        }
        let path = Path::new(&config.secret_key_file);
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("secret_key_file \"{}\" cannot be read: {error}", path.display());
            SqlError::new(CONFIG_FILE_ERROR, message)
        })?;
        check_key_is_private(path)?;
        SecretKeys::parse(&text, &format!("secret_key_file \"{}\"", path.display()))
    }

    /// A key for databases that are there for a moment.
    pub fn passing() -> SecretKeys {
        SecretKeys(vec![Key::new(&[7; KEY_LEN])])
    }

    /// Keys in base64 or hexadecimal, one a line or with commas between them.
    fn parse(text: &str, origin: &str) -> Result<SecretKeys, SqlError> {
        let mut keys = Vec::new();
        for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
            let bytes = BASE64_STANDARD.decode(part).ok().filter(|bytes| bytes.len() == KEY_LEN);
            let Some(bytes) = bytes.or_else(|| hexadecimal(part)) else {
                let message = format!("{origin} holds something that is no key");
                return Err(SqlError::new(CONFIG_FILE_ERROR, message).with_hint(format!(
                    "A key is {KEY_LEN} random bytes in base64 or hexadecimal, several stand on lines of their own. {MAKE_KEY}"
                )));
            };
            keys.push(Key::new(&bytes));
        }
        match keys.is_empty() {
            true => {
                Err(SqlError::new(CONFIG_FILE_ERROR, format!("{origin} holds no key")).with_hint(MAKE_KEY))
            }
            false => Ok(SecretKeys(keys)),
        }
    }

    /// What the catalog keeps of a value.
    pub fn seal(&self, oid: u32, value: &str) -> Result<SecretDefinition, SqlError> {
        let Some(Key { id, key }) = self.0.first() else {
            return Err(SqlError::new(
                SqlState::NOT_IN_PREREQUISITE_STATE,
                "secrets cannot be kept: the server has no key to encrypt them with",
            )
            .with_hint(format!(
                "Start it with secret_key_file or the variable TIDEMILL_SECRET_KEY. {MAKE_KEY}"
            )));
        };
        let failed = |_| SqlError::new(SqlState::INTERNAL_ERROR, "a secret could not be encrypted");
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut sealed = value.as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to(oid), &mut sealed)
            .map_err(failed)?;
        let sealed = BASE64_STANDARD.encode([&nonce[..], &sealed].concat());
        Ok(SecretDefinition { key: id.clone(), sealed })
    }

    /// The value of a secret.
    fn open(&self, secret: &Object) -> Result<String, SqlError> {
        let Definition::Secret(SecretDefinition { key: id, sealed }) = &secret.definition else {
            unreachable!("only secrets are opened");
        };
        let Some(Key { key, .. }) = self.0.iter().find(|key| key.id == *id) else {
            let mut error = SqlError::new(
                CONFIG_FILE_ERROR,
                format!("{} is encrypted with a key that the server was not given", secret.describe()),
            );
            error.detail = Some(match self.0.is_empty() {
                true => format!("It was encrypted with key {id}, and there is no key."),
                false => {
                    let ids: Vec<&str> = self.0.iter().map(|key| key.id.as_str()).collect();
                    format!("It was encrypted with key {id}; the server has {}.", ids.join(", "))
                }
            });
            return Err(error.with_hint(
                "Give the key back in secret_key_file or TIDEMILL_SECRET_KEY. Behind a new one, as a second line, it only decrypts.",
            ));
        };
        let damaged = || SqlError::new(DATA_CORRUPTED, format!("{} is damaged", secret.describe()));
        let sealed = BASE64_STANDARD.decode(sealed).map_err(|_| damaged())?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let mut value = sealed.to_vec();
        let value = key.open_in_place(nonce, bound_to(secret.oid), &mut value).map_err(|_| damaged())?;
        String::from_utf8(value.to_vec()).map_err(|_| damaged())
    }

    /// The catalog with everything sealed with the newest key; none where it is. Fails where one cannot be opened: what names
    /// it could not run.
    pub fn renew(&self, catalog: &Catalog) -> Result<Option<Catalog>, SqlError> {
        let mut renewed: Option<Catalog> = None;
        for secret in catalog.objects_of(Kind::Secret) {
            let value = self.open(secret)?;
            let is_newest = |definition: &SecretDefinition| {
                self.0.first().is_some_and(|newest| newest.id == definition.key)
            };
            if matches!(&secret.definition, Definition::Secret(definition) if !is_newest(definition)) {
                let before = renewed.as_ref().unwrap_or(catalog);
                renewed = Some(before.set_secret(secret.oid, self.seal(secret.oid, &value)?));
            }
        }
        Ok(renewed)
    }

    /// Options as a connector is to see them.
    pub fn resolved(
        &self,
        catalog: &Catalog,
        options: &[(String, OptionValue)],
    ) -> Result<BTreeMap<String, String>, SqlError> {
        let resolve = |(key, value): &(String, OptionValue)| {
            let value = match value {
                OptionValue::Text(text) => text.clone(),
                OptionValue::Secret { secret } => match catalog.get(*secret) {
                    Some(secret) => self.open(secret)?,
                    None => unreachable!("a secret that is used is not dropped"),
                },
            };
            Ok((key.clone(), value))
        };
        options.iter().map(resolve).collect()
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Key {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("the length has been looked at");
        let id = digest(&SHA256, bytes).as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Key { id, key: LessSafeKey::new(key) }
    }
}

fn bound_to(oid: u32) -> Aad<[u8; 4]> {
    Aad::from(oid.to_le_bytes())
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * KEY_LEN || !text.is_ascii() {
        return None;
    }
    (0..KEY_LEN).map(|idx| u8::from_str_radix(&text[2 * idx..2 * idx + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use tidemill_catalog::{NewObject, OnConflict};

    use super::*;

    fn keys(text: &str) -> SecretKeys {
        SecretKeys::parse(text, "here").unwrap()
    }

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(KEY_LEN)
    }

    fn catalog(keys: &SecretKeys, values: &[&str]) -> Catalog {
        let mut catalog = Catalog::new();
        for (idx, value) in values.iter().enumerate() {
            let new = NewObject {
                schema: "public".into(),
                name: format!("s{idx}"),
                columns: Vec::new(),
                primary_key: Vec::new(),
                definition: Definition::Secret(keys.seal(0, "").unwrap()),
                sql: String::new(),
                search_path: Vec::new(),
                dependencies: Vec::new(),
                owner: "tidemill".into(),
                created_at: 0,
            };
            let (entered, created) = catalog.create(new, OnConflict::Fail).unwrap();
            let oid = created.object().oid;
            catalog = entered.set_secret(oid, keys.seal(oid, value).unwrap());
        }
        catalog
    }

    fn values(keys: &SecretKeys, catalog: &Catalog) -> Vec<String> {
        catalog.objects().map(|object| keys.open(object).unwrap_or_else(|error| error.message)).collect()
    }

    #[test]
    fn only_its_key_opens_a_secret() {
        let first = keys(&hex(1));
        let made = catalog(&first, &["pässword", "x"]);
        assert_eq!(values(&first, &made), ["pässword", "x"]);
        let bytes = String::from_utf8(made.to_bytes()).unwrap();
        assert!(!bytes.contains("pässword") && bytes.contains("\"format\": 4"), "{bytes}");
        assert_eq!(values(&first, &Catalog::from_bytes(&made.to_bytes()).unwrap()), ["pässword", "x"]);
        let other = keys(&hex(2));
        let lost = "secret s0 is encrypted with a key that the server was not given";
        assert_eq!(values(&other, &made)[0], lost);
        assert_eq!(values(&SecretKeys::default(), &made)[0], lost);
        // Two seals of one value have nothing in common.
        assert_ne!(first.seal(1, "x").unwrap().sealed, first.seal(1, "x").unwrap().sealed);
    }

    #[test]
    fn a_secret_in_the_place_of_another_or_changed_is_damaged() {
        let keys = keys(&hex(1));
        let made = catalog(&keys, &["a", "b"]);
        let [first, second]: [_; 2] = made.objects().cloned().collect::<Vec<_>>().try_into().unwrap();
        let Definition::Secret(definition) = &second.definition else { panic!() };
        let swapped = made.set_secret(first.oid, definition.clone());
        assert_eq!(values(&keys, &swapped), ["secret s0 is damaged", "b"]);
        for sealed in ["", "AAAA", "?"] {
            let definition = SecretDefinition { sealed: sealed.into(), ..definition.clone() };
            assert_eq!(values(&keys, &made.set_secret(first.oid, definition))[0], "secret s0 is damaged");
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let made = catalog(&keys(&hex(1)), &["a", "b"]);
        assert!(keys(&hex(1)).renew(&made).unwrap().is_none());
        let both = keys(&format!("{}\n{}\n", hex(2), hex(1)));
        let renewed = both.renew(&made).unwrap().unwrap();
        assert_eq!(values(&keys(&hex(2)), &renewed), ["a", "b"]);
        assert!(both.renew(&renewed).unwrap().is_none());
        assert!(keys(&hex(1)).renew(&renewed).is_err());
    }

    #[test]
    fn keys_are_of_two_forms_and_never_shown() {
        let base64 = BASE64_STANDARD.encode([1; KEY_LEN]);
        assert_eq!(keys(&base64).0[0].id, keys(&hex(1)).0[0].id);
        assert_eq!(keys(&format!("{base64},{}", hex(2))).0.len(), 2);
        for (text, message) in
            [("\n", "here holds no key"), ("hunter2", "here holds something that is no key")]
        {
            let error = SecretKeys::parse(text, "here").unwrap_err();
            assert_eq!(error.message, message);
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert!(!format!("{:?}", keys(&base64)).contains(&base64));
        assert!(
            SecretKeys::default().seal(1, "x").unwrap_err().hint.unwrap().contains("TIDEMILL_SECRET_KEY")
        );
    }
}
