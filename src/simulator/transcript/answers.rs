//! Which recorded answer a request gets. Pure.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::transcript::format::{Answer, Entry, Line, Request};

/// Recorded answers by what was asked.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_question: HashMap<Question, Recorded>,
}

/// A request without what differs from run to run: its dates and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    method: String,
    path: String,
    version: u8,
    /// Parameters in order of their names.
    query: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// With the query to the letter, in recorded order.
    answers: Vec<(Vec<(String, String)>, Answer)>,
    /// How often each query, to the letter, was answered.
    asked: HashMap<Vec<(String, String)>, usize>,
    /// How often a query was answered that was not recorded to the letter.
    others: usize,
}

impl Answers {
    /// Pairs requests with their answers. One that was never answered is as if it had not been
    /// made: the client asked again.
    pub fn new(lines: &[Line]) -> Answers {
        let mut waiting: HashMap<u64, &Request> = HashMap::new();
        let mut answers = Answers::default();
        for line in lines {
            match &line.entry {
                Entry::Request(request) => drop(waiting.insert(request.id, request)),
                Entry::Answer(answer) => {
                    let Some(request) = waiting.remove(&answer.id) else { continue };
                    let (question, query) = question(&request.method, &request.path, request.version);
                    answers.by_question.entry(question).or_default().answers.push((query, answer.clone()));
                }
                _ => {}
            }
        }
        answers
    }

    /// How many different questions have an answer.
    pub fn len(&self) -> usize {
        self.by_question.len()
    }

    /// The next answer to this question: to the very same one if there is any, else to one that
    /// differs in dates and numbers alone. The last one repeats.
    pub fn next(&mut self, method: &str, path: &str, version: u8) -> Option<Answer> {
        let (question, query) = question(method, path, version);
        let Recorded { answers, asked, others } = self.by_question.get_mut(&question)?;
        let same: Vec<&Answer> =
            answers.iter().filter(|(recorded, _)| *recorded == query).map(|(_, answer)| answer).collect();
        let (choice, count) = match same.is_empty() {
            true => (answers.iter().map(|(_, answer)| answer).collect(), others),
            false => (same, asked.entry(query).or_default()),
        };
        let answer = choice.get((*count).min(choice.len() - 1)).map(|answer| (*answer).clone());
        *count += 1;
        answer
    }
}

/// A request as it is compared, and its query to the letter.
fn question(method: &str, path: &str, version: u8) -> (Question, Vec<(String, String)>) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut exact: Vec<(String, String)> = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    exact.sort();
    let loose = |(name, value): &(String, String)| {
        (name.clone(), if is_date_or_number(value) { String::new() } else { value.clone() })
    };
    let query = exact.iter().map(loose).collect();
    (Question { method: method.to_owned(), path: decode(path), version, query }, exact)
}

fn is_date_or_number(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || "-+:. TZ/".contains(c))
}

/// The body with the address of the stream replaced by another.
pub(super) fn redirect_stream(body: &str, endpoint: &str) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(Value::Object(mut members)) if members.contains_key("lightstreamerEndpoint") => {
            members.insert("lightstreamerEndpoint".to_owned(), endpoint.into());
            Value::Object(members).to_string()
        }
        _ => body.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::format::{Body, Headers};

    fn recorded(exchanges: &[(&str, &str)]) -> Answers {
        let mut lines = Vec::new();
        for (id, (path, body)) in (1..).zip(exchanges) {
            let request =
                Request { id, method: "GET".into(), path: (*path).into(), version: 3, body: Body::default() };
            lines.push(Line { ms: id, entry: Entry::Request(request) });
            if !body.is_empty() {
                let body = Body { body: Some((*body).into()), left_out_bytes: None };
                let answer = Answer { id, status: 200, headers: Headers::default(), body, took_ms: 1 };
                lines.push(Line { ms: id, entry: Entry::Answer(answer) });
            }
        }
        Answers::new(&lines)
    }

    #[track_caller]
    fn check(exchanges: &[(&str, &str)], asked: &[&str], expected: &[&str]) {
        let mut answers = recorded(exchanges);
        let told = asked.iter().map(|path| answers.next("GET", path, 3));
        let told: Vec<String> = told
            .map(|answer| answer.and_then(|answer| answer.body.body).unwrap_or_else(|| "?".to_owned()))
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn answers_come_in_order_and_the_last_repeats() {
        check(
            &[("/a", "1"), ("/b", "x"), ("/a", "2")],
            &["/a", "/a", "/a", "/b", "/c"],
            &["1", "2", "2", "x", "?"],
        );
        check(&[("/a", ""), ("/a", "2")], &["/a"], &["2"]);
        check(&[("/a", "")], &["/a"], &["?"]);
    }

    #[test]
    fn dates_and_numbers_may_differ_and_nothing_else() {
        let history = [
            ("/prices/X?resolution=MINUTE_5&from=2024-01-17T10%3A00%3A00&max=3", "first"),
            ("/prices/X?resolution=MINUTE_5&from=2024-01-17T11%3A00%3A00&max=3", "second"),
        ];
        check(&history, &["/prices/X?max=9&from=2030-01-01T00:00:00&resolution=MINUTE_5"], &["first"]);
        check(&history, &["/prices/X?max=3&resolution=MINUTE_15&from=2024-01-17T10:00:00"], &["?"]);
        check(&history, &["/prices/X?resolution=MINUTE_5&max=3"], &["?"]);
        check(&history, &["/prices/Y?resolution=MINUTE_5&from=2024-01-17T10:00:00&max=3"], &["?"]);
        let second = "/prices/X?resolution=MINUTE_5&from=2024-01-17T11:00:00&max=3";
        check(&history, &[second, second, history[0].0], &["second", "second", "first"]);
        assert!(recorded(&history).next("POST", history[0].0, 3).is_none());
        assert!(recorded(&history).next("GET", history[0].0, 2).is_none());
    }

    #[test]
    fn the_stream_is_where_the_player_is() {
        let body = r#"{"a":1,"lightstreamerEndpoint":"https://ig"}"#;
        assert_eq!(redirect_stream(body, "http://here"), r#"{"a":1,"lightstreamerEndpoint":"http://here"}"#);
        assert_eq!(redirect_stream("{\"bid\":1.10}", "http://here"), "{\"bid\":1.10}");
        assert_eq!(redirect_stream("", "http://here"), "");
    }
}
