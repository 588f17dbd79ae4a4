//! A client of schema registries: Confluent's, and what speaks its protocol.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

/// Of one question, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How deep references may refer.
const REFERENCE_DEPTH_MAX: usize = 16;

#[derive(Debug, Clone)]
pub struct SchemaRegistry {
    client: Client,
    /// Ends with a slash.
    url: Url,
    login: Option<Login>,
}

#[derive(Clone)]
struct Login {
    username: Arc<str>,
    password: Option<Arc<str>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// `schema registry "http://localhost:8081"`, as messages say it.
impl fmt::Display for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schema registry \"{}\"", self.url.as_str().trim_end_matches('/'))
    }
}

/// What the registry said no to.
struct Refusal {
    status: StatusCode,
    /// Its own number, which says more than the status.
    code: Option<i64>,
    message: String,
}

/// That there is no such subject, version or schema.
const NOT_FOUND: [i64; 3] = [40401, 40402, 40403];

impl SchemaRegistry {
    pub fn new(
        owner: &str,
        url: &str,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<SchemaRegistry, ConnectorError> {
        let refuse = |message: String, hint: &str| {
            ConnectorError::fatal(SqlState::INVALID_PARAMETER, message).with_hint(hint)
        };
        let parsed = Url::parse(url.trim()).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
        });
        let Some(mut parsed) = parsed else {
            let message = format!("option \"schema.registry\" of {owner} cannot be \"{url}\"");
            return Err(refuse(message, "Expected a URL, such as http://localhost:8081."));
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            let message = format!("option \"schema.registry\" of {owner} has a login in its URL");
            return Err(refuse(message, "Use schema.registry.username and schema.registry.password."));
        }
        if password.is_some() && username.is_none() {
            let message = format!(
                "option \"schema.registry.password\" of {owner} needs the option \"schema.registry.username\""
            );
            return Err(refuse(message, "Add schema.registry.username = '…' to the list of options."));
        }
        if !parsed.path().ends_with('/') {
            parsed.set_path(&format!("{}/", parsed.path()));
        }
        let client = Client::builder().timeout(TIMEOUT).user_agent("tidemill").build();
        let client = client.map_err(|error| {
            let message = format!("the HTTP client of {owner} cannot be made: {error}");
            ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
        })?;
        let login =
            username.map(|username| Login { username: username.into(), password: password.map(Into::into) });
        Ok(SchemaRegistry { client, url: parsed, login })
    }

    /// The schema of an id; inside, why records with that id cannot be read.
    pub async fn schema(&self, id: u32) -> Result<Result<String, String>, ConnectorError> {
        let answer = match self.ask(Method::GET, &["schemas", "ids", &id.to_string()], None).await? {
            Ok(answer) => answer,
            Err(refusal) if refusal.is_not_found() => {
                return Ok(Err(format!("schema id {id} is unknown to {self}")));
            }
            Err(refusal) => return Err(self.refused(&format!("fetch schema id {id}"), &refusal)),
        };
        match self.read(&answer).await? {
            Ok(schema) => Ok(Ok(schema)),
            Err(reason) => Ok(Err(format!("schema id {id} {reason}"))),
        }
    }

    /// The id and the schema of a subject's latest version, if there is one.
    pub async fn latest(&self, subject: &str) -> Result<Option<(u64, String)>, ConnectorError> {
        let what = format!("fetch subject \"{subject}\"");
        let answer = match self.ask(Method::GET, &["subjects", subject, "versions", "latest"], None).await? {
            Ok(answer) => answer,
            Err(refusal) if refusal.is_not_found() => return Ok(None),
            Err(refusal) => return Err(self.refused(&what, &refusal)),
        };
        let id = answer.get("id").and_then(Value::as_u64).unwrap_or_default();
        match self.read(&answer).await? {
            Ok(schema) => Ok(Some((id, schema))),
            Err(reason) => {
                let message = format!("the schema of subject \"{subject}\" in {self} {reason}");
                Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message))
            }
        }
    }

    /// Registers a schema under a subject, where it may be already; gives its id.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, ConnectorError> {
        // Without schemaType: it is Avro unless said, and old registries do not know the word.
        let body = json!({ "schema": schema });
        let what = format!("register the schema of subject \"{subject}\"");
        let answer = match self.ask(Method::POST, &["subjects", subject, "versions"], Some(body)).await? {
            Ok(answer) => answer,
            Err(refusal) if refusal.status == StatusCode::CONFLICT => {
                let message = format!(
                    "the columns are incompatible with subject \"{subject}\" of {self}: {}",
                    refusal.message
                );
                return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message).with_hint(
                    "Change the query's columns, the subject's compatibility level, or write to another subject.",
                ));
            }
            Err(refusal) => return Err(self.refused(&what, &refusal)),
        };
        let id = answer.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.no_registry(&what))
    }

    /// The schema in an answer, with what it refers to written into it; inside, why it is of no use.
    async fn read(&self, answer: &Value) -> Result<Result<String, String>, ConnectorError> {
        // Registries from before there were others do not say that a schema is Avro.
        let kind = answer.get("schemaType").and_then(Value::as_str).unwrap_or("AVRO");
        if kind != "AVRO" {
            return Ok(Err(format!("is of type {kind}, not AVRO")));
        }
        let Some(schema) = answer.get("schema").and_then(Value::as_str) else {
            return Err(self.no_registry("fetch a schema"));
        };
        let mut referred = Vec::new();
        if let Err(reason) = Box::pin(self.references(answer, &mut referred, 0)).await? {
            return Ok(Err(reason));
        }
        if referred.is_empty() {
            return Ok(Ok(schema.to_string()));
        }
        let Ok(mut value) = serde_json::from_str::<Value>(schema) else {
            return Ok(Err("is no JSON".to_string()));
        };
        write_in(&mut value, None, &mut referred);
        Ok(Ok(value.to_string()))
    }

    /// The schemas that an answer refers to, by name.
    async fn references(
        &self,
        answer: &Value,
        referred: &mut Vec<(String, Option<Value>)>,
        depth: usize,
    ) -> Result<Result<(), String>, ConnectorError> {
        for reference in answer.get("references").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| reference.get(name).and_then(Value::as_str);
            let version = reference.get("version").and_then(Value::as_i64);
            let (Some(name), Some(subject), Some(version)) = (text("name"), text("subject"), version) else {
                return Err(self.no_registry("fetch a schema"));
            };
            if referred.iter().any(|(known, _)| known == name) {
                continue;
            }
            if depth == REFERENCE_DEPTH_MAX {
                return Ok(Err("refers to schemas that refer too deeply".to_string()));
            }
            let version = version.to_string();
            let answer =
                match self.ask(Method::GET, &["subjects", subject, "versions", &version], None).await? {
                    Ok(answer) => answer,
                    Err(refusal) if refusal.is_not_found() => {
                        return Ok(Err(format!(
                            "refers to version {version} of subject \"{subject}\", which does not exist"
                        )));
                    }
                    Err(refusal) => {
                        return Err(self.refused(
                            &format!("fetch version {version} of subject \"{subject}\""),
                            &refusal,
                        ));
                    }
                };
            let schema = answer.get("schema").and_then(Value::as_str);
            let Some(schema) = schema.and_then(|schema| serde_json::from_str(schema).ok()) else {
                return Err(self.no_registry("fetch a schema"));
            };
            referred.push((name.to_string(), Some(schema)));
            let deeper = Box::pin(self.references(&answer, referred, depth + 1)).await?;
            if deeper.is_err() {
                return Ok(deeper);
            }
        }
        Ok(Ok(()))
    }

    /// One question. A registry that is away, or that is busy with itself, is an error that passes.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<Result<Value, Refusal>, ConnectorError> {
        const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
        let mut url = self.url.clone();
        url.path_segments_mut().expect("http has paths").pop_if_empty().extend(path);
        let mut request = self.client.request(method, url).header("Accept", MEDIA_TYPE);
        if let Some(Login { username, password }) = &self.login {
            request = request.basic_auth(username, password.as_ref());
        }
        if let Some(body) = body {
            request = request.header("Content-Type", MEDIA_TYPE).body(body.to_string());
        }
        let away = |error: reqwest::Error| {
            // The innermost says what happened, the others that it did.
            let mut reason: &dyn std::error::Error = &error;
            while let Some(source) = reason.source() {
                reason = source;
            }
            let reason = if error.is_timeout() {
                format!("no answer within {} s", TIMEOUT.as_secs())
            } else {
                reason.to_string()
            };
            let message = format!("{self} does not answer: {reason}");
            ConnectorError::transient(SqlState::CONNECTION_FAILURE, message)
                .with_hint("Look at schema.registry, and whether it can be reached from this machine.")
        };
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let text = response.text().await.map_err(away)?;
        let answer: Option<Value> = serde_json::from_str(&text).ok().filter(Value::is_object);
        if status.is_success() {
            return match answer {
                Some(answer) => Ok(Ok(answer)),
                None => Err(self.no_registry("use")),
            };
        }
        let code = answer.as_ref().and_then(|answer| answer.get("error_code")?.as_i64());
        let message = answer.as_ref().and_then(|answer| answer.get("message")?.as_str());
        let message = message.map_or_else(|| status.to_string(), str::to_string);
        Ok(Err(Refusal { status, code, message }))
    }

    fn refused(&self, what: &str, refusal: &Refusal) -> ConnectorError {
        let message = format!("cannot {what} of {self}: {}", refusal.message);
        match refusal.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ConnectorError::fatal(SqlState::INVALID_AUTHORIZATION, message)
                    .with_hint("Look at schema.registry.username and schema.registry.password.")
            }
            // A proxy says so as well, when the registry behind it is away.
            StatusCode::NOT_FOUND => ConnectorError::transient(SqlState::CONNECTION_FAILURE, message)
                .with_hint("Is there a schema registry at that address?"),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                ConnectorError::transient(SqlState::CONNECTION_FAILURE, message)
            }
            status if status.is_client_error() => ConnectorError::fatal(SqlState::INVALID_PARAMETER, message),
            _ => ConnectorError::transient(SqlState::CONNECTION_FAILURE, message),
        }
    }

    fn no_registry(&self, what: &str) -> ConnectorError {
        let message = format!("cannot {what}: what answers is no schema registry ({self})");
        ConnectorError::transient(SqlState::CONNECTION_FAILURE, message)
            .with_hint("Look at the option schema.registry.")
    }
}

impl Refusal {
    /// Whether it is the registry that says so, and not something before it.
    fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.code.is_some_and(|code| NOT_FOUND.contains(&code))
    }
}

/// Puts the schemas that names refer to where the names stand first: later ones refer to that place.
fn write_in(schema: &mut Value, namespace: Option<&str>, referred: &mut Vec<(String, Option<Value>)>) {
    match schema {
        Value::String(name) => {
            let qualified = namespace.map(|namespace| format!("{namespace}.{name}"));
            let place =
                referred.iter().position(|(known, _)| known == name || Some(known) == qualified.as_ref());
            if let Some(mut inner) = place.and_then(|place| referred[place].1.take()) {
                write_in(&mut inner, None, referred);
                *schema = inner;
            }
        }
        Value::Array(branches) => {
            branches.iter_mut().for_each(|branch| write_in(branch, namespace, referred))
        }
        Value::Object(object) => {
            let own = object.get("namespace").and_then(Value::as_str).map(str::to_string);
            let of_name = object.get("name").and_then(Value::as_str).and_then(|name| name.rsplit_once('.'));
            let of_name = of_name.map(|(namespace, _)| namespace.to_string());
            let inner = of_name.or(own).or(namespace.map(str::to_string));
            for key in ["type", "items", "values"] {
                if let Some(inner_schema) = object.get_mut(key) {
                    write_in(inner_schema, inner.as_deref(), referred);
                }
            }
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(inner_schema) = field.get_mut("type") {
                    write_in(inner_schema, inner.as_deref(), referred);
                }
            }
        }
        _ => (),
    }
}
