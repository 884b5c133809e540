//! An attachment over a wire that is cut again and again.

use std::sync::{Arc, Mutex};

use stratavore_certs::tls::Verdict;
use stratavore_proto::v1::attach_response::Message;
use stratavore_proto::v1::terminal_service_server::{TerminalService, TerminalServiceServer};
use stratavore_proto::v1::{self, AttachOpen, AttachResponse, attach_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::progress::{Progress, Step, Wish};
use super::wire::{Event, Wire};
use crate::client::Client;
use crate::client::testing::{Cuttable, Pki, node};
use crate::errors::Exit;

/// All that the runner ever writes: more than all buffers between it and us hold, several times.
const OUTPUT_BYTES: u64 = 16 << 20;

/// Bytes shown after which the wire is cut again.
const CUT_AFTER: usize = 3 << 20;

/// An attach from now, or a snapshot, begins here.
const NOW: u64 = 500;

const CHUNK: u64 = 9_973;

fn byte(offset: u64) -> u8 {
    b'a' + u8::try_from((offset / 7) % 26).unwrap()
}

#[derive(Clone)]
struct Terminal {
    opens: Arc<Mutex<Vec<AttachOpen>>>,
    taken: bool,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

impl Terminal {
    async fn serve(self, open: AttachOpen, out: mpsc::Sender<Result<AttachResponse, Status>>) -> Option<()> {
        let ready = v1::AttachReady {
            epoch: Some(v1::Epoch { incarnation: 1, index: 9 }),
            driver: !open.observe,
            tty: true,
            ..Default::default()
        };
        let send = async |message| out.send(Ok(AttachResponse { message: Some(message) })).await.ok();
        send(Message::Ready(ready)).await?;
        let begin = open.from_offset.unwrap_or(NOW);
        if open.from_offset.is_none() && !open.raw {
            let snapshot = v1::AttachSnapshot { data: "screen".into(), offset: begin, size: None };
            send(Message::Snapshot(snapshot)).await?;
        }
        // What was sent once more does not matter: offsets decide.
        let mut at = begin.saturating_sub(if open.from_offset.is_some() { 5 } else { 0 });
        while at < OUTPUT_BYTES {
            let end = (at + CHUNK).min(OUTPUT_BYTES);
            let data: Vec<u8> = (at..end).map(byte).collect();
            send(Message::Output(v1::AttachOutput { data: data.into(), offset: at, stderr: false })).await?;
            at = end;
        }
        let exit = v1::Exit { code: Some(3), ..Default::default() };
        send(Message::Exit(v1::AttachExit { exit: Some(exit) })).await
    }
}

#[tonic::async_trait]
impl TerminalService for Terminal {
    type AttachStream = Stream<AttachResponse>;
    type ReadLogsStream = Stream<v1::ReadLogsResponse>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut requests = request.into_inner();
        let Some(attach_request::Message::Open(open)) = requests.message().await?.and_then(|r| r.message)
        else {
            return Err(Status::invalid_argument("no open"));
        };
        self.opens.lock().unwrap().push(open.clone());
        if self.taken && !open.steal && !open.observe {
            return Err(Status::failed_precondition("bob drives"));
        }
        let (out, answers) = mpsc::channel(4);
        tokio::spawn(self.clone().serve(open, out));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn read_logs(
        &self,
        _: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_screen(
        &self,
        _: Request<v1::GetScreenRequest>,
    ) -> Result<Response<v1::GetScreenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn send_input(
        &self,
        _: Request<v1::SendInputRequest>,
    ) -> Result<Response<v1::SendInputResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

struct Bench {
    wire: Cuttable,
    client: Client,
    opens: Arc<Mutex<Vec<AttachOpen>>>,
}

async fn bench(taken: bool) -> Bench {
    let pki = Pki::new();
    let opens = Arc::default();
    let (wire, listener) = Cuttable::new().await;
    let terminal = Terminal { opens: Arc::clone(&opens), taken };
    let address = node(&pki, Verdict::Admit, Routes::new(TerminalServiceServer::new(terminal))).await;
    wire.lead(listener, address);
    Bench { client: Client::new(pki.dialer(vec![wire.endpoint.clone()]), None, false), wire, opens }
}

/// Follows to the end; what was shown, and how it ended.
async fn follow(bench: &Bench, wish: Wish) -> (Vec<u8>, v1::Exit) {
    let mut progress = Progress::new(wish);
    let (mut wire, first) = Wire::open(&bench.client, "attach", progress.open(None)).await.unwrap();
    let mut shown = Vec::new();
    let mut cut_at = CUT_AFTER;
    let mut step = progress.on(first);
    loop {
        if shown.len() >= cut_at {
            bench.wire.cut();
            cut_at += CUT_AFTER;
        }
        match step {
            Step::Draw { data, .. } => shown.extend_from_slice(&data),
            Step::Show { data, lost, .. } => {
                assert_eq!(lost, 0);
                shown.extend_from_slice(&data);
            }
            Step::Ended(exit) => return (shown, exit),
            Step::Ready(_) | Step::Driver { .. } | Step::Nothing => {}
        }
        step = match wire.next(&progress.open(None)).await {
            Event::Message(message) => progress.on(message),
            other => panic!("{other:?}"),
        };
    }
}

fn wish(raw: bool, from_start: bool) -> Wish {
    Wish { runner: "r".to_owned(), raw, from_start, ..Default::default() }
}

#[tokio::test]
async fn no_byte_is_lost_or_doubled_when_the_wire_is_cut() {
    let bench = bench(false).await;
    let (shown, exit) = follow(&bench, wish(true, true)).await;
    assert_eq!(exit.code, Some(3));
    assert_eq!(shown.len() as u64, OUTPUT_BYTES);
    assert!(shown.iter().enumerate().all(|(at, shown)| *shown == byte(at as u64)));
    assert!(bench.opens.lock().unwrap().len() > 2, "it was cut several times");
}

#[tokio::test]
async fn a_terminal_goes_on_from_its_offset_after_one_snapshot() {
    let bench = bench(false).await;
    let (shown, _) = follow(&bench, wish(false, false)).await;
    assert_eq!(&shown[..6], b"screen");
    assert_eq!(shown.len() as u64, 6 + OUTPUT_BYTES - NOW);
    let opens = bench.opens.lock().unwrap();
    assert!(!opens[0].steal && opens[0].from_offset.is_none() && opens[0].epoch.is_none());
    let again = opens.last().unwrap();
    assert!(again.from_offset.unwrap() > NOW && again.epoch.unwrap().index == 9);
    assert!(again.steal, "the seat of the lost connection is taken back");
}

#[tokio::test]
async fn a_refusal_is_said_at_once() {
    let bench = bench(true).await;
    let refused = Wire::open(&bench.client, "attach", Progress::new(wish(false, false)).open(None)).await;
    assert_eq!(refused.unwrap_err().exit(), Exit::Conflict);
    let stolen = Wish { steal: true, ..wish(false, false) };
    assert!(Wire::open(&bench.client, "attach", Progress::new(stolen).open(None)).await.is_ok());
}
