//! What is answered, held against the OpenAPI document. Unit tests of the library take this file in too.

use serde_json::{Value, json};

/// Fails where a value is not as the document's schema of this name says, or says more.
pub fn fits_named(document: &Value, name: &str, value: &Value) {
    fits(document, &json!({ "$ref": format!("#/components/schemas/{name}") }), value, name);
}

/// Fails where a value is not as the document says, or says more.
pub fn fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    // References lead into the document.
    let mut whole = schema.clone();
    whole["components"] = document["components"].clone();
    close(&mut whole);
    let validator = jsonschema::validator_for(&whole).expect("a schema");
    let faults: Vec<String> = validator.iter_errors(value).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{place}: {faults:#?}\n{value}");
}

/// Clients are to bear members that are added, so no schema forbids them; a test wants to hear of them.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.get("properties").is_some_and(Value::is_object) {
                members.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(close),
        _ => {}
    }
}
