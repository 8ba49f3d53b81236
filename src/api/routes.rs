//! Every path, and what answers it.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder};
use serde_json::Value;

use super::cached::Cached;
use super::metrics::{self, Stored};
use super::{Sources, views};
use crate::store::Store;

/// The paths that there are.
const ROUTES: [&str; 3] = ["/healthz", "/v1/status", "/metrics"];
/// How long a status is good for.
const STATUS_KEEP: Duration = Duration::from_secs(1);
/// The same of what metrics take from the database, which has to be counted.
const METRICS_KEEP: Duration = Duration::from_secs(10);

/// What handlers share.
pub struct Answers {
    sources: Sources,
    status: Cached<String>,
    stored: Cached<Stored>,
}

impl Answers {
    /// Answers made from these.
    pub fn new(sources: Sources) -> Answers {
        let (read, clock) = (sources.status.clone(), sources.clock.clone());
        let status = Cached::new(STATUS_KEEP, clock.clone(), move || read());
        let config = sources.config.clone();
        let stored = Cached::new(METRICS_KEEP, clock, move || {
            let stored =
                Store::open_read_only(&config.database).and_then(|mut store| Stored::read(&mut store));
            stored.map_err(|error| error.to_string())
        });
        Answers { sources, status, stored }
    }
}

/// Every route; what has none is told which there are.
pub fn configure(app: &mut ServiceConfig) {
    app.service(readable("/healthz", healthz))
        .service(readable("/v1/status", status))
        .service(readable("/metrics", metrics))
        .default_service(web::to(not_found));
}

/// What is there to be read, by GET and HEAD alone.
fn readable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let get = web::get().to(handler.clone());
    web::resource(path).route(get).route(web::head().to(handler)).default_service(web::to(other_method))
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> HttpResponse {
    HttpResponse::build(status).content_type(header::ContentType::json()).body(format!("{value}\n"))
}

async fn healthz(answers: Data<Answers>) -> impl Responder {
    let report = answers.sources.health();
    let status = if report.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &views::health(&report, std::process::id()))
}

async fn status(answers: Data<Answers>) -> impl Responder {
    match answers.status.get().await {
        Ok(text) => HttpResponse::Ok().content_type(header::ContentType::json()).body((*text).clone()),
        Err(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &views::error("unavailable", &reason)),
    }
}

async fn metrics(answers: Data<Answers>) -> impl Responder {
    let (stats, health) = (&answers.sources.signs.stats, answers.sources.health());
    // What the process counts is told while the database is away too.
    let stored = answers.stored.get().await.ok();
    match metrics::text(stats, &health, stored.as_deref()) {
        Ok(text) => HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(text),
        Err(error) => {
            json(StatusCode::INTERNAL_SERVER_ERROR, &views::error("unwritable", &error.to_string()))
        }
    }
}

async fn not_found() -> impl Responder {
    json(StatusCode::NOT_FOUND, &views::not_found(&ROUTES))
}

async fn other_method() -> impl Responder {
    let mut answer = json(
        StatusCode::METHOD_NOT_ALLOWED,
        &views::error("other_method", "this can be read, by GET or HEAD"),
    );
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
    answer
}
