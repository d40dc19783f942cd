//! deploy/kubernetes: compared with the published schemas and with what the server knows, and run in the layout that the kubelet makes.

mod jobs;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use keyround::config::settings::SETTINGS;
use serde_json::json;

use super::*;

const MANIFESTS: &str = "kubernetes/keyround.yaml";
const MIGRATE: &str = "kubernetes/migrate.yaml";
const BACKUP: &str = "kubernetes/backup.yaml";
const PAGE: &str = include_str!("../../../docs/operate/kubernetes.md");
/// The schemas that are asked: the oldest and the newest of those that the page names, and one between.
const VERSIONS: [&str; 3] = ["1.25.0", "1.30.0", "1.37.0"];

/// A program of the Python environment that `make target/kubernetes/ready` makes.
fn python(program: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kubernetes/bin");
    assert!(folder.exists(), "run 'make target/kubernetes/ready' first");
    Command::new(folder.join(program))
}

/// What the schemas say about this text, strictly: a field that they do not have is refused.
fn validated(text: &str, version: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manifests.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = python("kubernetes-validate");
    let output = command.args(["--strict", "-k", version]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let documents = text.split("\n---\n").count();
        assert_eq!(said.matches(" passed for resource ").count(), documents, "{said}");
        return Ok(());
    }
    Err(said)
}

#[test]
fn the_published_schemas_take_the_manifests_and_no_misspelt_ones() {
    let manifests = text(MANIFESTS);
    for file in [MANIFESTS, MIGRATE, BACKUP] {
        for version in VERSIONS {
            assert_eq!(validated(&text(file), version), Ok(()), "{file} {version}");
        }
    }
    let [oldest, newest] = [VERSIONS[0], VERSIONS[2]].map(|version| version.trim_end_matches(".0"));
    for claim in [
        format!("It needs Kubernetes {oldest} or newer"),
        format!("Kubernetes {oldest} to {newest}"),
    ] {
        assert!(PAGE.contains(&claim), "{claim}");
    }
    // A field that came with 1.26: each version is asked for its own schema.
    let later = manifests.replace(
        "minAvailable: 1",
        "minAvailable: 1\n  unhealthyPodEvictionPolicy: AlwaysAllow",
    );
    assert!(later != manifests && validated(&later, VERSIONS[0]).is_err());
    assert_eq!(validated(&later, VERSIONS[2]), Ok(()));
    for (from, to) in [
        ("runAsNonRoot", "runAsNonroot"),
        ("enableServiceLinks", "enableServicelinks"),
        ("readinessProbe", "readynessProbe"),
        ("minAvailable", "minimumAvailable"),
        ("volumeClaimTemplates", "volumeClaimTemplate"),
        ("policyTypes", "policyType"),
        ("replicas: 2", "replicas: two"),
        ("defaultMode: 0440", "defaultMode: \"0440\""),
        ("fsGroupChangePolicy", "fsGroupPolicy"),
        ("publishNotReadyAddresses", "publishUnreadyAddresses"),
    ] {
        assert!(manifests.contains(from), "{from}");
        let said = validated(&manifests.replace(from, to), VERSIONS[2]);
        assert!(said.is_err(), "{to} is taken");
    }
    for (file, from, to) in [
        (MIGRATE, "restartPolicy: Never", "restartPolicies: Never"),
        (MIGRATE, "backoffLimit", "backOffLimit"),
        (BACKUP, "concurrencyPolicy", "concurrency"),
        (BACKUP, "initContainers", "initcontainers"),
        (BACKUP, "fieldPath", "path"),
    ] {
        assert!(text(file).contains(from), "{from}");
        let said = validated(&text(file).replace(from, to), VERSIONS[2]);
        assert!(said.is_err(), "{to} is taken");
    }
}

/// Every document of the servers, as JSON.
fn documents() -> Vec<Value> {
    documents_of(MANIFESTS)
}

fn documents_of(file: &str) -> Vec<Value> {
    let read = "import yaml,json,sys; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = python("python").args(["-c", read]).arg(deploy(file)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn the<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = documents
        .iter()
        .find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The settings of the `ConfigMap`.
fn settings(documents: &[Value]) -> BTreeMap<String, String> {
    let data = the(documents, "ConfigMap", "keyround")["data"].as_object().unwrap();
    data.iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

/// What a schema cannot know: names that refer to each other, and names, ports and paths that the server knows.
#[test]
fn the_manifests_fit_together_and_the_server() {
    let documents = documents();
    let set = &the(&documents, "StatefulSet", "keyround")["spec"];
    let pod = &set["template"]["spec"];
    let [container] = pod["containers"].as_array().unwrap().as_slice() else {
        panic!("one container");
    };

    // Everything but the namespace is in it, and every selector finds the pods.
    let labels = &set["template"]["metadata"]["labels"];
    for document in &documents {
        if document["kind"] != "Namespace" {
            assert_eq!(document["metadata"]["namespace"], "keyround", "{document}");
        }
    }
    for selector in [
        &the(&documents, "Service", "keyround")["spec"]["selector"],
        &the(&documents, "Service", "keyround-nodes")["spec"]["selector"],
        &set["selector"]["matchLabels"],
        &the(&documents, "PodDisruptionBudget", "keyround")["spec"]["selector"]["matchLabels"],
        &the(&documents, "NetworkPolicy", "keyround")["spec"]["podSelector"]["matchLabels"],
        &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    assert_eq!(set["serviceName"], "keyround-nodes");
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], "keyround");

    // Every variable is a setting.
    let settings = settings(&documents);
    let known: BTreeSet<String> = SETTINGS
        .iter()
        .map(keyround::config::settings::Setting::variable)
        .collect();
    for name in settings.keys() {
        assert!(known.contains(name), "{name} is no setting");
    }

    // Ports by name, as the settings have them.
    let port_of = |name: &str| {
        let ports = container["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == name);
        port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"]
            .as_u64()
            .unwrap()
    };
    for (port, setting) in [
        ("http", "KEYROUND_SERVER__LISTEN"),
        ("admin", "KEYROUND_SERVER__ADMIN_LISTEN"),
    ] {
        assert_eq!(settings[setting], format!("0.0.0.0:{}", port_of(port)));
    }
    assert_eq!(
        the(&documents, "Service", "keyround")["spec"]["ports"][0]["targetPort"],
        "http"
    );
    assert_eq!(
        the(&documents, "Service", "keyround-nodes")["spec"]["ports"][0]["targetPort"],
        "admin"
    );
    let ingress = the(&documents, "NetworkPolicy", "keyround")["spec"]["ingress"]
        .as_array()
        .unwrap();
    let admitted: Vec<&Value> = ingress.iter().map(|rule| &rule["ports"][0]["port"]).collect();
    assert_eq!(admitted, ["http", "admin"]);

    // Each probe asks the admin listener, for what the page says.
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&json!(path), &json!("admin")), "{probe}");
    }

    // Every file is in a volume, and the server writes the ledger's alone; `work` is for a person.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = |name: &str| mounts.iter().find(|mount| mount["name"] == name).unwrap();
    let (secrets, ledger) = (mount("secrets"), mount("ledger"));
    assert_eq!((&secrets["readOnly"], ledger.get("readOnly")), (&json!(true), None));
    for setting in ["KEYROUND_DATABASE__URL_FILE", "KEYROUND_KEYS__MASTER_KEY_FILE"] {
        let folder = Path::new(&settings[setting]).parent().unwrap().to_str().unwrap();
        assert_eq!(secrets["mountPath"], folder, "{setting}");
        let key = Path::new(&settings[setting]).file_name().unwrap().to_str().unwrap();
        assert!(PAGE.contains(&format!("--from-file={key}")), "the page makes no {key}");
    }
    let folder = Path::new(&settings["KEYROUND_KEYS__LEDGER_FILE"]).parent().unwrap();
    assert_eq!(ledger["mountPath"], folder.to_str().unwrap());
    assert_eq!(set["volumeClaimTemplates"][0]["metadata"]["name"], "ledger");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "keyround");
    assert!(PAGE.contains("create secret generic keyround "));

    // The restricted Pod Security Standard.
    assert_restricted(pod);
    let of_pod = &pod["securityContext"];
    assert_eq!(of_pod["fsGroupChangePolicy"], "OnRootMismatch");

    // The user is the image's, and one node is left when one is taken away.
    let image = text("Dockerfile");
    let user = image.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert_eq!(user, format!("{}:{}", of_pod["runAsUser"], of_pod["runAsGroup"]));
    assert_eq!(of_pod["fsGroup"], of_pod["runAsGroup"]);
    assert_eq!(set["replicas"], 2);
    assert_eq!(
        the(&documents, "PodDisruptionBudget", "keyround")["spec"]["minAvailable"],
        1
    );
    // As docs/operate/deploy.md asks for: the delay and 20 seconds, at least.
    let delay: u64 = settings["KEYROUND_SERVER__SHUTDOWN_DELAY"]
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= delay + 20);
    for version in [VERSIONS[0], VERSIONS[2]] {
        assert!(
            PAGE.contains(version.trim_end_matches(".0")),
            "the page does not name {version}"
        );
    }
}

fn assert_restricted(pod: &Value) {
    let of_pod = &pod["securityContext"];
    assert_eq!(of_pod["runAsNonRoot"], true);
    assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let containers = ["containers", "initContainers"].map(|list| pod[list].as_array());
    for container in containers.into_iter().flatten().flatten() {
        let of_container = &container["securityContext"];
        assert_eq!(of_container["allowPrivilegeEscalation"], false);
        assert_eq!(of_container["readOnlyRootFilesystem"], true);
        assert_eq!(of_container["capabilities"], json!({ "drop": ["ALL"] }));
    }
}

/// Whether the network policy lets a pod of a namespace with these labels connect to this port.
fn admits(policy: &Value, labels: &[(&str, &str)], port: &str) -> bool {
    let holds = |selector: &Value| {
        let wanted = selector["matchLabels"].as_object().unwrap();
        assert!(!wanted.is_empty(), "an empty selector admits everything");
        wanted
            .iter()
            .all(|(name, value)| labels.iter().any(|(own, is)| own == name && is == value))
    };
    policy["spec"]["ingress"].as_array().unwrap().iter().any(|rule| {
        let (from, ports) = (rule["from"].as_array().unwrap(), rule["ports"].as_array().unwrap());
        ports.iter().any(|of| of["port"] == port) && from.iter().any(|peer| holds(&peer["namespaceSelector"]))
    })
}

#[test]
fn the_network_policy_admits_who_is_named_or_labelled() {
    let documents = documents();
    let policy = the(&documents, "NetworkPolicy", "keyround");
    let name = "kubernetes.io/metadata.name";
    for (labels, http, admin) in [
        (&[(name, "ingress-nginx")][..], true, false),
        (&[(name, "monitoring")], false, true),
        (&[(name, "orders")], false, false),
        (&[(name, "orders"), ("keyround/http", "allowed")], true, false),
        (&[(name, "observability"), ("keyround/admin", "allowed")], false, true),
        (&[(name, "orders"), ("keyround/http", "denied")], false, false),
    ] {
        let admitted = (admits(policy, labels, "http"), admits(policy, labels, "admin"));
        assert_eq!(admitted, (http, admin), "{labels:?}");
        for &(label, value) in labels {
            let by_command = format!("{label}={value}");
            assert!(
                label == name || value == "denied" || PAGE.contains(&by_command),
                "the page does not say {by_command}"
            );
        }
    }
}

/// What the page shows to Prometheus: taken by it, with the name that the alerts ask for and the port of the manifests.
#[test]
fn the_scrape_configuration_of_the_page_is_one() {
    let block = PAGE.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, block).unwrap();
    crate::deployment::succeed("promtool", &["check", "config", file.to_str().unwrap()]);
    let documents = documents();
    let nodes = the(&documents, "Service", "keyround-nodes");
    assert!(block.contains("names: [keyround-nodes.keyround.svc.cluster.local]"));
    assert!(block.contains(&format!("port: {}", nodes["spec"]["ports"][0]["port"])));
    assert_eq!(nodes["spec"]["publishNotReadyAddresses"], true);
    assert!(block.contains("job_name: keyround\n") && text("prometheus-alerts.yaml").contains("job=\"keyround\""));
}

/// What Kubernetes would set for Services called `keyround` and `keyround-nodes` if the links were on.
const LINKS: [(&str, &str); 9] = [
    ("KEYROUND_SERVICE_HOST", "10.96.7.1"),
    ("KEYROUND_SERVICE_PORT", "80"),
    ("KEYROUND_SERVICE_PORT_HTTP", "80"),
    ("KEYROUND_PORT", "tcp://10.96.7.1:80"),
    ("KEYROUND_PORT_80_TCP", "tcp://10.96.7.1:80"),
    ("KEYROUND_PORT_80_TCP_PROTO", "tcp"),
    ("KEYROUND_PORT_80_TCP_PORT", "80"),
    ("KEYROUND_PORT_80_TCP_ADDR", "10.96.7.1"),
    ("KEYROUND_NODES_SERVICE_HOST", "10.96.7.2"),
];

/// A pod: secrets of root in a group's reach, and a volume as `fsGroup` leaves it.
fn pod(database: &TestDatabase) -> Layout {
    let documents = documents();
    let spec = &the(&documents, "StatefulSet", "keyround")["spec"]["template"]["spec"];
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let (user, group) = (
        number(&spec["securityContext"]["runAsUser"]),
        number(&spec["securityContext"]["fsGroup"]),
    );
    let mode = number(&spec["volumes"][0]["secret"]["defaultMode"]);
    let image = text("Dockerfile");
    let settings = settings(&documents);
    let mut environment = of_the_image(&image);
    environment.extend(settings.clone());
    environment.extend(LINKS.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let file = |setting: &str, text: &str| (settings[setting].clone(), text.to_owned(), mode, (0, group));
    let ledger = Path::new(&settings["KEYROUND_KEYS__LEDGER_FILE"]).parent().unwrap();
    let ledger = ledger.to_str().unwrap().to_owned();
    let arguments = spec["containers"][0]["args"].as_array().unwrap();
    Layout {
        user,
        group,
        umask: "0022",
        working_directory: image.lines().rfind(|line| line.starts_with("WORKDIR ")).unwrap()["WORKDIR ".len()..]
            .to_owned(),
        environment,
        arguments: arguments.iter().map(|word| word.as_str().unwrap().to_owned()).collect(),
        files: vec![
            file("KEYROUND_KEYS__MASTER_KEY_FILE", MASTER_KEY),
            file("KEYROUND_DATABASE__URL_FILE", &database.url),
        ],
        writable: vec![ledger.clone()],
        volumes: vec![(ledger, 0o2775, (0, group))],
        grace: Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().unwrap()),
    }
}

/// The kubelet keeps the content of a secret in a folder of its own, behind two links that change at once.
fn link_as_the_kubelet_does(deployment: &Deployment<'_>) {
    for (path, ..) in &deployment.layout.files {
        let file = deployment.root.join(path.trim_start_matches('/'));
        let (folder, name) = (file.parent().unwrap(), file.file_name().unwrap());
        let content = folder.join("..2026_01_01_00_00_00.123456789");
        std::fs::create_dir_all(&content).unwrap();
        std::fs::rename(&file, content.join(name)).unwrap();
        let data = folder.join("..data");
        if !data.exists() {
            std::os::unix::fs::symlink(content.file_name().unwrap(), &data).unwrap();
        }
        std::os::unix::fs::symlink(Path::new("..data").join(name), &file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_reads_its_secrets_and_keeps_its_ledger() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    let mut layout = pod(&database);
    layout
        .environment
        .insert("KEYROUND_SERVER__SHUTDOWN_DELAY".to_owned(), "1s".to_owned());
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut deployment = Deployment::install(&mut layout, folder.path());
    link_as_the_kubelet_does(&deployment);
    deployment.start().await;
    deployment.succeed(&["healthcheck", "--issue"]);
    for path in [
        "/etc/keyround/written",
        "/var/lib/keyround/written",
        "/tmp/written",
        "/etc/keyround/secrets/written",
    ] {
        let written = deployment.run(&["master-key", "generate", path]);
        assert!(!written.status.success(), "{path} can be written");
    }
    let kid = deployment.kids().await[0].clone();
    deployment.succeed(&["keys", "revoke", &kid, "--reason", "test", "--yes"]);
    deployment.succeed(&["healthcheck", "--issue"]);
    assert!(deployment.ledger().contains(&kid));
    deployment.stop().await;
    // The pod is replaced: the volume is mounted again, and its root has the group and the mode already.
    deployment.start().await;
    assert!(deployment.ledger().contains(&kid) && !deployment.kids().await.contains(&kid));
    deployment.stop().await;

    // What the other policy would do at a mount: the group may write every file. The check says so.
    let path = deployment.layout.environment["KEYROUND_KEYS__LEDGER_FILE"].clone();
    let ledger = deployment.root.join(path.trim_start_matches('/'));
    let mode = ledger.metadata().unwrap().mode() & 0o777;
    std::fs::set_permissions(&ledger, std::fs::Permissions::from_mode(mode | 0o660)).unwrap();
    let output = deployment.run(&["db", "check"]);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(
        !output.status.success() && said.concat().contains("may be written by others"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_restart_and_no_request_fails() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    restart_one_after_the_other("pods", [pod(&database), pod(&database)]).await;
}

/// What misbehaving peers can make a node hold fits the limit of its container (docs/reference/limits.md has the figures).
#[test]
fn the_connections_fit_the_memory_of_the_container() {
    const OF_A_CONNECTION: usize = 200 + 256;
    const OF_THE_REST: usize = 128 * 1024;
    let text = text(MANIFESTS);
    let number = |before: &str, after: &str| -> usize {
        let (_, rest) = text.split_once(before).unwrap();
        rest.split_once(after).unwrap().0.parse().unwrap()
    };
    let connections = number("KEYROUND_SERVER__MAX_CONNECTIONS: \"", "\"");
    let limit = number("limits:\n              memory: ", "Mi\n") * 1024;
    assert!(connections * OF_A_CONNECTION + OF_THE_REST <= limit);
}
