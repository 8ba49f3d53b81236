//! What an answer looks like. Pure.

use serde_json::{Value, json};

use super::health::HealthReport;

/// An error: a word for programs, and the reason for people.
pub fn error(word: &str, reason: &str) -> Value {
    json!({ "error": word, "reason": reason })
}

/// The same where somebody asks for what is not there.
pub fn not_found(routes: &[&str]) -> Value {
    json!({ "error": "not_found", "reason": "there is nothing here", "routes": routes })
}

/// `/healthz` of the process with this number.
pub fn health(report: &HealthReport, pid: u32) -> Value {
    let status = match report {
        report if !report.is_well() => "stuck",
        report if report.is_starting => "starting",
        _ => "ok",
    };
    let rooms = report.rooms.iter().map(|room| {
        json!({
            "name": room.name,
            "state": room.state.as_str(),
            "late_ms": room.late.as_millis() as u64,
            "restarts": room.restarts,
        })
    });
    json!({
        "status": status,
        "at": report.at,
        "stuck": report.stuck().collect::<Vec<_>>(),
        "rooms": rooms.collect::<Vec<_>>(),
        "version": env!("CARGO_PKG_VERSION"),
        // By which somebody who finds the address taken knows whose it is.
        "pid": pid,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::health::{RoomReport, RoomState};

    #[test]
    fn health_names_what_is_stuck() {
        let room = |name, state| RoomReport { name, state, late: Duration::from_millis(1_500), restarts: 2 };
        let rooms = vec![room("stream", RoomState::Running), room("writer", RoomState::Stuck)];
        let told = health(&HealthReport { rooms, ..HealthReport::default() }, 7);
        assert_eq!(told["status"], "stuck");
        assert_eq!(told["stuck"], json!(["writer"]));
        assert_eq!(
            told["rooms"][0],
            json!({ "name": "stream", "state": "running", "late_ms": 1_500, "restarts": 2 })
        );
        assert_eq!(health(&HealthReport::default(), 7)["status"], "ok");
        let starting =
            HealthReport { is_starting: true, at: "waiting for IG".to_owned(), ..HealthReport::default() };
        let told = health(&starting, 7);
        assert_eq!((&told["status"], &told["at"]), (&json!("starting"), &json!("waiting for IG")));
        let stuck = health(&HealthReport { start_late: Some(Duration::from_secs(1)), ..starting }, 7);
        assert_eq!((&stuck["status"], &stuck["stuck"]), (&json!("stuck"), &json!(["start"])));
    }
}
