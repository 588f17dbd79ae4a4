//! A schema registry of a test's own: a thread that answers what clients here ask.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// Ends with the process: it has nothing to give back.
#[derive(Debug, Clone)]
pub struct FakeRegistry {
    pub url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The answers for ids.
    schemas: BTreeMap<u64, Value>,
    /// The ids of each subject's versions.
    subjects: BTreeMap<String, Vec<u64>>,
    how: How,
    /// What has been asked, as `GET /path`.
    asked: Vec<String>,
}

/// How it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum How {
    #[default]
    Well,
    /// Connections end without answer.
    Away,
    /// With this status and text, whatever is asked.
    With(u16, &'static str),
    /// To whoever sends this header only.
    ToLogin(&'static str),
}

impl FakeRegistry {
    pub fn start() -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let registry = FakeRegistry { url, state: Arc::default() };
        let answering = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let registry = answering.clone();
                // A client that goes away is its own affair.
                std::thread::spawn(move || drop(registry.answer(stream)));
            }
        });
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with `schema` for the id, as registries did before they knew other types.
    pub fn add(&self, id: u64, schema: &str) {
        self.add_answer(id, json!({ "schema": schema }));
    }

    pub fn add_answer(&self, id: u64, answer: Value) {
        self.state().schemas.insert(id, answer);
    }

    /// Makes a schema the latest version of a subject.
    pub fn add_version(&self, subject: &str, id: u64) {
        self.state().subjects.entry(subject.to_string()).or_default().push(id);
    }

    pub fn answer_like(&self, how: How) {
        self.state().how = how;
    }

    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// The schema with the id.
    pub fn schema(&self, id: u64) -> Value {
        serde_json::from_str(self.state().schemas[&id]["schema"].as_str().unwrap()).unwrap()
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (method, path) = (method.to_string(), path.to_string());
        let (mut n_bytes, mut login) = (0, String::new());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => n_bytes = value.parse().unwrap(),
                "authorization" => login = value.to_string(),
                _ => (),
            }
        }
        let mut body = vec![0; n_bytes];
        reader.read_exact(&mut body)?;
        let how = {
            let mut state = self.state();
            state.asked.push(format!("{method} {path}"));
            state.how.clone()
        };
        let (status, answer) = match how {
            How::Away => return Ok(()),
            How::With(status, text) => (status, text.to_string()),
            How::ToLogin(wanted) if wanted != login => {
                (401, json!({ "error_code": 401, "message": "Unauthorized" }).to_string())
            }
            How::Well | How::ToLogin(_) => {
                let (status, answer) = self.look_up(&method, &path, &body);
                (status, answer.to_string())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        let stream = reader.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(answer.as_bytes())
    }

    fn look_up(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let missing = |code: u64, what: &str| (404, json!({ "error_code": code, "message": what }));
        let mut state = self.state();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, &parts[..]) {
            ("GET", ["schemas", "ids", id]) => match state.schemas.get(&id.parse().unwrap()) {
                Some(answer) => (200, answer.clone()),
                None => missing(40403, "Schema not found"),
            },
            ("GET", ["subjects", subject, "versions", version]) => {
                let Some(ids) = state.subjects.get(*subject) else {
                    return missing(40401, "Subject not found.");
                };
                let place = if *version == "latest" { ids.len() } else { version.parse().unwrap() };
                let mut answer = state.schemas[&ids[place - 1]].clone();
                answer["id"] = ids[place - 1].into();
                (200, answer)
            }
            ("POST", ["subjects", subject, "versions"]) => {
                let body: Value = serde_json::from_slice(body).unwrap();
                let subject = subject.to_string();
                let schema = json!({ "schema": body["schema"] });
                let known = state.schemas.iter().find(|(_, known)| **known == schema).map(|(id, _)| *id);
                let ids = state.subjects.get(&subject).cloned().unwrap_or_default();
                if let Some(id) = known.filter(|id| ids.contains(id)) {
                    return (200, json!({ "id": id }));
                }
                if !ids.is_empty() {
                    let message = "Schema being registered is incompatible with an earlier schema";
                    return (409, json!({ "error_code": 409, "message": message }));
                }
                let id = known.unwrap_or(state.schemas.keys().last().unwrap_or(&100) + 1);
                state.schemas.insert(id, schema);
                state.subjects.entry(subject).or_default().push(id);
                (200, json!({ "id": id }))
            }
            _ => missing(404, "HTTP 404 Not Found"),
        }
    }
}
