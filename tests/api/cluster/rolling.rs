//! Three instances that are restarted one after the other under load, each on the socket that it inherited.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Cluster, Instance, LONG};
use crate::helpers::eventually;
use crate::rolling::{Load, each_has_its_row, number, stop};

#[actix_web::test]
async fn restarts_of_three_under_load_fail_no_request_and_cut_no_stream() {
    let (restarts, streams) = (number("ROLLING_RESTARTS", 3), number("ROLLING_STREAMS", 40));
    let mut cluster = Cluster::start_on_sockets(&[]).await;
    let key = cluster.key().await.text;
    // From here on every call of the load is a row, and every row a call of it.
    cluster.settle_access().await;
    let calls = i64::try_from(cluster.simulator.ledger().len()).unwrap();
    assert!(eventually(LONG, || async { cluster.rows().await == calls }).await);
    cluster.ask("DELETE FROM usage_records").await;
    cluster.simulator.ledger().clear();
    let loads: Vec<Load> = cluster
        .instances
        .iter()
        .map(|instance| Load::new(instance.url.clone(), key.clone()))
        .collect();

    let (environments, sockets) = (&cluster.environments, &cluster.sockets);
    let instances = &mut cluster.instances;
    let restarting = async {
        let mut longest = Duration::ZERO;
        for restart in 0..restarts {
            let at = restart % 3;
            let next = Instance::start(environments[at].clone(), &sockets[at]).await;
            let mut before = std::mem::replace(&mut instances[at], next);
            longest = longest.max(stop(&mut before.child, &before.log).await);
        }
        loads.iter().for_each(|load| load.over.set(true));
        longest
    };
    let calling = join_all(loads.iter().map(|load| load.run(streams.div_ceil(3))));
    let (clients, longest) = tokio::join!(calling, restarting);
    for instance in &mut cluster.instances {
        stop(&mut instance.child, &instance.log).await;
    }

    let answered = loads.iter().map(Load::answered_all).sum();
    each_has_its_row(answered, &cluster.simulator, &cluster.environments[0]).await;
    let reused: usize = clients.iter().flatten().map(|client| client.reused).sum();
    assert!(reused > 0, "connections were kept");
    println!(
        "{restarts} restarts of three instances under {streams} streams: {answered} calls answered, each with its row; \
         {reused} on kept connections; the longest stop took {longest:?}"
    );
}
