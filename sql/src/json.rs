//! Texts of `json` and `jsonb`.

use serde_json::Value;

/// The text of a `jsonb`: keys by length and then by bytes, a space behind each comma and colon.
pub fn jsonb_text(value: &Value) -> String {
    let mut text = String::new();
    write_jsonb(value, &mut text);
    text
}

fn write_jsonb(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (idx, item) in items.iter().enumerate() {
                if idx > 0 {
                    text.push_str(", ");
                }
                write_jsonb(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
            text.push('{');
            for (idx, (key, value)) in fields.into_iter().enumerate() {
                if idx > 0 {
                    text.push_str(", ");
                }
                text.push_str(&Value::String(key.clone()).to_string());
                text.push_str(": ");
                write_jsonb(value, text);
            }
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_by_length_first() {
        let value: Value = serde_json::from_str(r#"{"bb":1,"c":[1,{"a":null}],"a":"x"}"#).unwrap();
        assert_eq!(jsonb_text(&value), r#"{"a": "x", "c": [1, {"a": null}], "bb": 1}"#);
    }
}
