//! What `deploy/` ships is usable: the manifests and the unit by the judgement of their own tools, the samples by that
//! of the built agent, and the capabilities that both grant by an agent that has no others.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use spantap_tests::{
    agent::{binary, repository},
    clock,
    http::get,
    numbered, otlp,
    process::{Launch, require_root, tool},
    temp::{TempDir, free_port},
};

/// What the agent needs, and nothing else. In the words of capabilities(7), without the prefix.
const CAPABILITIES: [&str; 5] = ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "LEASE"];
/// `systemd-analyze security` in tenths; 10.0 is an unprotected service.
const EXPOSURE_MAX: &str = "35";

fn deploy(path: &str) -> PathBuf {
    repository().join("deploy").join(path)
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Values of the lines `- value` that follow the line `key:`.
fn list(manifest: &str, key: &str) -> Vec<String> {
    let begins = |line: &str| line.trim_start_matches("- ") == format!("{key}:");
    let lines = manifest.lines().map(str::trim).skip_while(|line| !begins(line)).skip(1);
    lines.map_while(|line| line.strip_prefix("- ").map(str::to_owned)).collect()
}

#[test]
fn samples_are_valid_for_the_built_agent() {
    for sample in ["spantap.yaml", "kubernetes/base/spantap.yaml", "kubernetes/sidecar/spantap.yaml"] {
        let output = Launch::new(binary()).args(["config", "check"]).arg(deploy(sample)).output();
        assert!(output.status.success(), "{sample}: {}", text(&output));
    }
}

#[test]
fn the_manifests_build_with_few_capabilities_and_few_mounts() {
    let manifest = Launch::new(tool("kubectl")).arg("kustomize").arg(deploy("kubernetes/base")).run();
    let kinds: Vec<&str> = manifest.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert_eq!(kinds, ["Namespace", "ServiceAccount", "ConfigMap", "DaemonSet"]);
    assert_eq!(list(&manifest, "add"), CAPABILITIES);
    assert_eq!(list(&manifest, "drop"), ["ALL"]);
    assert!(manifest.contains("privileged: false") && manifest.contains("readOnlyRootFilesystem: true"));
    let lines: Vec<&str> = manifest.lines().map(str::trim).collect();
    let mounts = lines.windows(2).filter(|pair| pair[0].ends_with("hostPath:")).map(|pair| pair[1]);
    let mounts: Vec<&str> = mounts.collect();
    assert_eq!(mounts, ["path: /var/lib/spantap", "path: /sys/fs/cgroup", "path: /sys/kernel/tracing"]);
}

/// The user of the sidecar, who is nobody else's.
const SIDECAR_USER: u32 = 65_532;

#[test]
fn the_sidecar_has_no_privilege_and_its_configuration_is_valid() {
    require_root();
    let manifest = Launch::new(tool("kubectl")).arg("kustomize").arg(deploy("kubernetes/sidecar")).run();
    let kinds: Vec<&str> = manifest.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert_eq!(kinds, ["ConfigMap", "Deployment"]);
    assert_eq!((list(&manifest, "add"), list(&manifest, "drop")), (vec![], vec!["ALL".to_owned()]));
    for granted in [
        "privileged: false",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "runAsNonRoot: true",
        &format!("runAsUser: {SIDECAR_USER}"),
        // What `delivery::sidecar` shows to be enough.
        "memory: 64Mi",
    ] {
        assert!(manifest.contains(granted), "no `{granted}`:\n{manifest}");
    }
    for host in ["hostPath", "hostPID", "hostNetwork", "hostPort"] {
        assert!(!manifest.contains(host), "{host}");
    }

    // As its container runs it, but for places that are taken or not there.
    let arguments = list(&manifest, "args");
    assert_eq!(arguments, ["run", "--config", "/etc/spantap/spantap.yaml"]);
    let folder = TempDir::new("sidecar");
    // As a volume is: root's, and open to the group of the pod (`fsGroup`).
    let volume = |path: &Path| {
        chown(path, None, Some(SIDECAR_USER)).expect("root may");
        fs::set_permissions(path, fs::Permissions::from_mode(0o2_770)).expect("root may");
    };
    fs::create_dir(folder.join("data")).expect("created");
    volume(folder.path());
    volume(&folder.join("data"));
    let [http, metrics] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut config = fs::read_to_string(deploy("kubernetes/sidecar/spantap.yaml")).expect("read the sample");
    for (place, here) in [
        ("127.0.0.1:4317", format!("127.0.0.1:{}", free_port())),
        ("127.0.0.1:4318", http.to_string()),
        ("0.0.0.0:9464", metrics.to_string()),
        ("otlp+grpc://otel-collector.observability.svc:4317", format!("otlp+grpc://127.0.0.1:{}", free_port())),
    ] {
        assert_eq!(config.matches(place).count(), 1, "{place}");
        config = config.replace(place, &here);
    }
    let config = folder.write("spantap.yaml", config);
    let program = folder.join("spantap");
    // The one that was built may be where only root looks.
    fs::copy(binary(), &program).expect("copied");
    let user = SIDECAR_USER.to_string();
    let mut agent = Launch::new(tool("setpriv"))
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .arg(program)
        .args(&arguments[..2])
        .arg(config)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--socket")
        .arg(folder.join("s.sock"))
        .env("SPANTAP_RELAY_ATTRIBUTES", "k8s.pod.name=checkout-1,k8s.namespace.name=shop")
        .stderr_to(&folder.join("stderr"))
        .spawn();
    let said = || fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    clock::wait_for("the sidecar is ready", Duration::from_secs(60), || {
        assert!(agent.ended().is_none(), "{}", said());
        get(metrics, "/readyz").ok().filter(|answer| answer.contains("ok"))
    });
    let request = otlp::post(&numbered::request(0, 10));
    let answered = otlp::exchange(&mut None, http, &request, Duration::from_secs(60)).expect("an answer");
    assert_eq!(answered, Some(200), "{}", said());
    let text = get(metrics, "/metrics").expect("an answer");
    assert!(text.contains("spantap_relayed_spans_accepted_total 10"), "{text}");
    assert!(agent.terminate(Duration::from_secs(30)).success(), "{}", said());
}

#[test]
fn the_unit_is_valid_and_hardened() {
    let unit = fs::read_to_string(deploy("systemd/spantap.service")).expect("read the unit");
    let granted = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("capabilities");
    let expected = CAPABILITIES.map(|name| format!("CAP_{name}")).join(" ");
    assert_eq!(granted, expected);
    // The agent is not installed here; everything else is judged as it is.
    let folder = TempDir::new("unit");
    let path = folder.write("spantap.service", unit.replace("/usr/bin/spantap", &binary().display().to_string()));
    let verified = Launch::new(tool("systemd-analyze")).args(["verify", "--man=no"]).arg(&path).output();
    assert!(verified.status.success() && !text(&verified).contains("spantap.service"), "{}", text(&verified));
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let security = Launch::new(tool("systemd-analyze")).args(["security", "--offline=true", &threshold]);
    let security = security.arg(&path).output();
    assert!(security.status.success(), "{}", text(&security));
}

#[test]
fn the_granted_capabilities_are_enough() {
    require_root();
    let folder = TempDir::new("grants");
    let config = folder.write("spantap.yaml", "capture: { unselected: none }\n");
    let grants = CAPABILITIES.map(|name| format!("+{}", name.to_lowercase())).join(",");
    let mut agent = Launch::new(tool("setpriv"))
        .arg(format!("--bounding-set=-all,{grants}"))
        .args(["--inh-caps=-all", "--no-new-privs"])
        .arg(binary())
        .args(["run", "--config"])
        .arg(config)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--socket")
        .arg(folder.join("run/s.sock"))
        .stderr_to(&folder.join("stderr"))
        .spawn();
    let said = || fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    let status = clock::poll(Duration::from_secs(60), || {
        assert!(agent.ended().is_none(), "{}", said());
        let ask = Launch::new(binary()).args(["status", "--json", "--socket"]).arg(folder.join("run/s.sock"));
        let output = ask.output();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    let status: serde_json::Value =
        serde_json::from_str(&status.unwrap_or_else(|| panic!("{}", said()))).expect("JSON");
    let hooks = status["hooks"].as_array().expect("hooks");
    // What is inside TLS is not worth CAP_SYS_ADMIN to everybody, which some kernels want for it; the agent says so.
    let documented = |hook: &serde_json::Value| {
        hook["name"] == "tls_libraries" && hook["detail"].as_str().is_some_and(|why| why.contains("CAP_SYS_ADMIN"))
    };
    let missing: Vec<_> = hooks.iter().filter(|hook| hook["attached"] != true && !documented(hook)).collect();
    assert!(hooks.len() > 10 && missing.is_empty(), "{missing:?}");
    assert!(agent.terminate(Duration::from_secs(30)).success(), "{}", said());
}
