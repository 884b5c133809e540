//! The gap in acknowledged writes, over all clients, when leadership is handed over as planned.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::api;
use crate::bench::samples::Samples;
use crate::bench::sides::{Ours, etcd, etcd_writers, runtime};
use crate::bench::{Effort, Figure};
use crate::etcd::EtcdCluster;
use crate::etcd::wire::EtcdClient;
use crate::load::Operation;

const HANDOVERS: u64 = 9;
/// Writing clients of every node.
const CLIENTS: usize = 4;
/// Of load before and after.
const AROUND: Duration = Duration::from_millis(500);

/// Planned changes of leader on either side.
#[must_use]
pub fn planned(effort: Effort) -> Vec<Figure> {
    let runtime = runtime();
    let ours = Ours::start(&runtime);
    let peer = etcd(&runtime);
    let (mut mine, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..effort.seconds(HANDOVERS) {
        mine.push(ours_once(&ours, &runtime));
        if let Some(peer) = &peer {
            theirs.push(peer_once(peer, &runtime));
        }
    }
    let mut figures = vec![
        Figure::new("handover_gap_median", mine.p50(), "ms", "<= 50 ms"),
        Figure::new("handover_gap_max", mine.max(), "ms", ""),
    ];
    if peer.is_some() {
        figures.push(Figure::new("peer_etcd_handover_gap_median", theirs.p50(), "ms", ""));
        figures.push(Figure::new("peer_etcd_handover_gap_max", theirs.max(), "ms", ""));
    }
    figures
}

fn ours_once(ours: &Ours, runtime: &Runtime) -> Duration {
    let nodes = ours.farm.nodes.len();
    let writers = (0..nodes).flat_map(|at| ours.writers(runtime, at, CLIENTS)).collect();
    let context = ours.farm.admin_context();
    let hand_over = async move {
        let mut cluster = ClusterServiceClient::new(api::connect(&context).await?);
        cluster.transfer_leader(v1::TransferLeaderRequest { node: 0 }).await?;
        anyhow::Ok(())
    };
    runtime.block_on(gap(writers, hand_over))
}

fn peer_once(peer: &EtcdCluster, runtime: &Runtime) -> Duration {
    let ids = peer.await_all(runtime);
    let leader = peer.leader(runtime);
    let writers = (0..peer.len()).flat_map(|at| etcd_writers(peer, runtime, at, CLIENTS)).collect();
    let target = ids[(leader + 1) % ids.len()];
    let hand_over = async move {
        EtcdClient::new(peer.connect(leader).await?).move_leader(target).await?;
        anyhow::Ok(())
    };
    runtime.block_on(gap(writers, hand_over))
}

/// The longest time without an acknowledgement from just before `hand_over` until well behind it.
async fn gap<O: Operation>(writers: Vec<O>, hand_over: impl Future<Output = anyhow::Result<()>>) -> Duration {
    let acknowledged: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut tasks = JoinSet::new();
    for mut writer in writers {
        let acknowledged = acknowledged.clone();
        tasks.spawn(async move {
            loop {
                match writer.once().await {
                    Ok(_) => acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()),
                    // Refused on the way: asked again, as a client does.
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
            }
        });
    }
    sleep(AROUND).await;
    let began = Instant::now();
    hand_over.await.expect("hand leadership over");
    sleep(AROUND).await;
    let ended = Instant::now();
    tasks.abort_all();
    let mut at: Vec<Instant> = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
    at.retain(|at| *at >= began && *at <= ended);
    at.extend([began, ended]);
    at.sort();
    at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
