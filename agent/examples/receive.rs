use agent::{config::Receive, intake::*, receive::Receivers};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
#[derive(Clone, Default)]
struct Count(Arc<Mutex<BTreeMap<String, u64>>>);
impl Take for Count {
    async fn accept(&self, request: bytes::Bytes, _: &str) -> Result<Accepted, Refusal> {
        use prost::Message;
        let r = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::decode(request)
            .map_err(|e| Refusal::Malformed(e.to_string()))?;
        for rs in r.resource_spans {
            let service = rs.resource.iter().flat_map(|r| &r.attributes).find(|a| a.key == "service.name");
            let service = format!("{:?}", service.and_then(|s| s.value.clone()).and_then(|v| v.value));
            let n: usize = rs.scope_spans.iter().map(|s| s.spans.len()).sum();
            let mut all = self.0.lock().unwrap();
            if !all.contains_key(&service) {
                println!("{:#?}", rs.scope_spans[0].spans[0]);
            }
            *all.entry(service).or_default() += n as u64;
        }
        Ok(Accepted::default())
    }
}
#[tokio::main]
async fn main() {
    let a: Vec<_> = std::env::args().collect();
    let receive = Receive {
        otlp_grpc: vec![a[1].parse().unwrap()],
        otlp_http: vec![a[2].parse().unwrap()],
        ..Receive::default()
    };
    let count = Count::default();
    let receivers = Receivers::start(&receive, count.clone()).unwrap();
    println!("ready");
    tokio::signal::ctrl_c().await.unwrap();
    println!("{:?}\n{:?}", count.0.lock().unwrap(), receivers.stats().counts());
    receivers.shutdown().await;
}
