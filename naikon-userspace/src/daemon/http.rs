//! `/`, `/metrics`, `/healthz`, `/readyz` over HTTP/1.1, for scrapers that may be slow or hostile.

use std::{convert::Infallible, fmt::Display, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    clock,
    metrics::Metrics,
    page::{self, Addresses},
    room::{Cut, Room, Stay},
    snapshot::Snapshot,
};
use crate::{kernel::KernelError, protection};

/// Scrapes that are put together at a time: each reads every counter, and none may keep others from their threads.
const SCRAPES_MAX: usize = 2;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a whole connection; one request each.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Between attempts to bind a port that somebody else has.
const BIND_PAUSE: Duration = Duration::from_secs(5);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every connection needs.
#[derive(Clone)]
struct Source {
    metrics: Arc<Metrics>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    scrapes: Arc<Semaphore>,
    listen: SocketAddr,
}

/// Serves until the daemon ends. A taken port is said and tried again: enforcement does not depend on it.
pub(crate) async fn serve(listen: SocketAddr, metrics: Arc<Metrics>, snapshots: watch::Receiver<Arc<Snapshot>>) {
    let listener = bind(listen).await;
    let mut room = Room::new("metrics", metrics.instruments());
    let source = Source { metrics, snapshots, scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)), listen };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                let serve = |stay| async move {
                    timeout(CONNECTION_TIMEOUT, connection(stream, source, stay)).await.unwrap_or(Some(Cut::Time))
                };
                room.take_in(serve).await;
            }
            Err(error) => room.not_taken(&error).await,
        }
    }
}

async fn bind(listen: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                tracing::info!("metrics at http://{listen}/metrics");
                return listener;
            }
            Err(error) if !said => {
                let cure = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "naikon keeps no right to ports below 1024 (net.ipv4.ip_unprivileged_port_start): choose another \
                         with --listen"
                    }
                    _ => "free the port or choose another with --listen",
                };
                tracing::warn!(
                    "binding {listen} for metrics: {error}; enforcement goes on, trying again every {} s; {cure}",
                    BIND_PAUSE.as_secs()
                );
                said = true;
            }
            Err(error) => tracing::debug!("binding {listen}: {error}"),
        }
        sleep(BIND_PAUSE).await;
    }
}

async fn connection(stream: TcpStream, source: Source, stay: Stay) -> Option<Cut> {
    let service = service_fn(move |request| {
        let (source, stay) = (source.clone(), stay.clone());
        async move {
            stay.hold();
            let answer = answer(request, source).await;
            stay.release();
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // What else goes wrong on one connection is the peer's matter.
    let error = served.err()?;
    tracing::debug!("a metrics connection: {error}");
    error.is_timeout().then_some(Cut::Time)
}

async fn answer(request: Request<Incoming>, source: Source) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => {
            let Source { metrics, snapshots, scrapes, listen } = source;
            let snapshot = Arc::clone(&snapshots.borrow());
            let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
            let addresses = Addresses::of(listen, host, snapshot.config.metrics.addresses);
            let render = move || {
                let overview = metrics.overview(&snapshot).map_err(|error| {
                    tracing::error!("{error}");
                    error
                })?;
                Ok::<_, KernelError>(page::render(&snapshot, &overview, addresses, clock::wall()))
            };
            off_these_threads(&scrapes, render).await.map_or_else(refusal, shown)
        }
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let open_metrics = accept.contains("application/openmetrics-text");
            let Source { metrics, scrapes, .. } = source;
            let content_type = if open_metrics { OPEN_METRICS } else { CLASSIC };
            let encoded = off_these_threads(&scrapes, move || metrics.encode(open_metrics)).await;
            encoded.map_or_else(refusal, |body| typed(StatusCode::OK, content_type, body))
        }
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let snapshot = Arc::clone(&source.snapshots.borrow());
            match protection::unready(&snapshot.hooks) {
                None => plain(StatusCode::OK, "ready\n"),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "/, /metrics, /healthz, /readyz\n"),
    }
}

/// Reading every counter is many system calls: not on the threads that serve, and not for everybody at once.
async fn off_these_threads<E: Display + Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<String, E> + Send + 'static,
) -> Result<String, (StatusCode, String)> {
    let failed = |error: &dyn Display| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
    // It is closed with the process.
    let turn = Arc::clone(turns).acquire_owned().await;
    let turn = turn.map_err(|_closed| (StatusCode::SERVICE_UNAVAILABLE, "ending\n".to_owned()))?;
    let worked = tokio::task::spawn_blocking(move || {
        let made = work();
        // Whether or not anybody waits for it still.
        drop(turn);
        made
    });
    match worked.await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

fn refusal((status, body): (StatusCode, String)) -> Response<Full<Bytes>> {
    plain(status, &body)
}

/// A page, which nobody keeps, quotes or takes for something else.
fn shown(body: String) -> Response<Full<Bytes>> {
    let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", body);
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, page::POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn plain(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
