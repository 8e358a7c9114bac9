//! A client's HTTP/2 connection: serves each stream that opens like an HTTP/1 request. Must not know sockets.

use super::super::traffic::{Context, End, Outcome, Traffic};
use super::conn::Core;
use super::drive::{Connection, Ended, Ending, Times};
use super::message::Malformed;
use super::place;
use super::stream::StreamIo;
use crate::error::Reason;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Serves an HTTP/2 connection from its preface on.
pub(in super::super) async fn serve<S, T>(io: S, context: Context<T>, drain: watch::Receiver<bool>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    T: Traffic,
{
    let settings = &context.settings;
    let core = Rc::new(RefCell::new(Core::server(settings.streams_max)));
    let _ending = Ending(Rc::clone(&core));
    let mut told = drain.clone();
    let mut draining = pin!(async move {
        if told.wait_for(|drain| *drain).await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let times = Times { head: settings.head_timeout, idle: settings.idle_timeout, body: settings.body_timeout };
    let mut connection = Connection::new(io, Rc::clone(&core), times);
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            core.borrow_mut().tell_leaving();
        }
        let ended = connection.poll(cx);
        start(&core, &context, &drain);
        ended
    })
    .await;
    match ended {
        Ended::Orderly | Ended::Gone => End::Closed,
        Ended::Broken(code) => {
            let why = format!("the client breaks HTTP/2 ({code:?}): its connection ends");
            report(&context, &why);
            core.borrow_mut().break_off(code);
            connection.linger().await;
            End::Broken
        }
    }
}

/// Has streams in new places served, each by a task of its own, and reports what no stream can.
fn start<T: Traffic>(core: &Rc<RefCell<Core>>, context: &Context<T>, drain: &watch::Receiver<bool>) {
    let opened = core.borrow_mut().take_opened();
    for stream in opened {
        let io = StreamIo::new(Rc::clone(core), stream);
        tokio::task::spawn_local(place::serve(io, context.clone(), drain.clone()));
    }
    let malformed = core.borrow_mut().take_malformed();
    for (id, Malformed(why)) in malformed {
        report(context, &format!("the client's request on stream {id} is reset: {why}"));
    }
}

/// A request that wasn't understood.
fn report<T: Traffic>(context: &Context<T>, detail: &str) {
    let outcome = Outcome {
        method: "",
        host: "",
        path: "",
        status: 0,
        reason: Some(Reason::DownstreamProtocol),
        detail,
        endpoint: None,
        received: 0,
        sent: 0,
        elapsed: Duration::ZERO,
    };
    context.traffic.finished(None, &outcome);
}
