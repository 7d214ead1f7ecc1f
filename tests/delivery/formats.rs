//! What the agent sends in other formats is read by code that others wrote, and says the same as its OTLP.
//!
//! Truth: the OTLP that arrives. Readers (`formats.py`): OpenTelemetry's own exporter for Zipkin, which says what it would have sent; the
//! generated code of Jaeger's Thrift and protobuf (`jaeger.py`); Datadog's test double of its agent; protobuf's own JSON.

use spantap_tests::{
    agent::repository,
    clock::poll,
    process::{Launch, Process},
    python,
    temp::{TempDir, free_port},
};

use crate::rig::{BOUND, Relay};

fn python(environment: &str, folder: &TempDir, name: &str, arguments: &[&str]) -> Process {
    Launch::new(python::program_of(environment, "python"))
        .args(arguments)
        .stdout_to(&folder.join(&format!("{name}.out")))
        .stderr_to(&folder.join(&format!("{name}.err")))
        .spawn()
}

#[test]
fn other_formats_say_the_same_as_otlp_to_code_of_others() {
    let folder = TempDir::new("formats");
    let (port, datadog_port, jaeger_port) = (free_port(), free_port(), free_port());
    let file = folder.join("spans.jsonl").display().to_string();
    let relay = Relay::start(
        &[
            format!("url: 'otlp+http://127.0.0.1:{port}/v1/traces'"),
            format!("url: 'otlp+http://127.0.0.1:{port}/json', encoding: json"),
            format!("url: 'zipkin+http://127.0.0.1:{port}'"),
            format!("url: 'jaeger+http://127.0.0.1:{port}'"),
            format!("url: 'jaeger+grpc://127.0.0.1:{jaeger_port}'"),
            format!("url: 'datadog+http://127.0.0.1:{datadog_port}'"),
            format!("url: 'file:{file}'"),
        ]
        .map(|to| format!("{to}, retry: {{ initial: 20ms, max: 200ms }}")),
        "",
    );
    let agent = "import sys; from ddapm_test_agent.agent import main; main(sys.argv[1:])";
    let _datadog = python("venv-datadog", &folder, "datadog", &["-c", agent, "--port", &datadog_port.to_string()]);
    let script = |name: &str| repository().join("tests/delivery").join(name).display().to_string();
    let _jaeger = python("venv-jaeger", &folder, "jaeger", &[&script("jaeger.py"), &jaeger_port.to_string()]);
    let jaeger_file = folder.join("jaeger.out").display().to_string();
    let (intake, port, datadog_port) = (relay.address().to_string(), port.to_string(), datadog_port.to_string());
    let mut judge =
        python("venv", &folder, "judge", &[&script("formats.py"), &intake, &port, &datadog_port, &file, &jaeger_file]);
    let status = poll(BOUND, || judge.ended());
    let said = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let all = format!(
        "{}{}{}{}",
        said("judge.out"),
        said("judge.err"),
        said("datadog.err") + &said("jaeger.err"),
        relay.messages()
    );
    assert!(status.is_some_and(|status| status.success()) && said("judge.out").contains("the same"), "{all}");
}
