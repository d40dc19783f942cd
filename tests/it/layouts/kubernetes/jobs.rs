//! The Jobs of deploy/kubernetes, with the roles of the database that the page gives them, and a certificate authority of one's own.

use super::*;

/// The pod of the one Job or `CronJob` in this file.
fn pod_of_a_job(file: &str) -> Value {
    let documents = documents_of(file);
    let job = documents.last().unwrap();
    assert_eq!(job["metadata"]["namespace"], "keyround");
    let template = match job["kind"].as_str().unwrap() {
        "Job" => &job["spec"]["template"],
        "CronJob" => &job["spec"]["jobTemplate"]["spec"]["template"],
        other => panic!("{other}"),
    };
    // The selector of the servers, of their Service and of their policy must not find it.
    let servers = documents_of(MANIFESTS);
    let service = the(&servers, "Service", "keyround");
    assert_ne!(template["metadata"]["labels"], service["spec"]["selector"]);
    assert_eq!(template["spec"]["restartPolicy"], "Never");
    assert_restricted(&template["spec"]);
    template["spec"].clone()
}

/// A container of such a pod: its files as the kubelet mounts them, and its words.
fn job(pod: &Value, container: &Value, name: &str, database: &TestDatabase) -> Layout {
    let servers = documents_of(MANIFESTS);
    let image = text("Dockerfile");
    let server = &the(&servers, "StatefulSet", "keyround")["spec"]["template"]["spec"];
    assert_eq!(container["image"], server["containers"][0]["image"]);
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert_eq!(
            pod["securityContext"][field], server["securityContext"][field],
            "{field}"
        );
    }
    let mut layout = super::pod(database);
    layout.environment = of_the_image(&image);
    if container["envFrom"][0]["configMapRef"]["name"] == "keyround" {
        layout.environment.extend(settings(&servers));
    }
    let mut variables = BTreeMap::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let value = match variable["value"].as_str() {
            Some(value) => value,
            None if variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name" => name,
            None => panic!("{variable}"),
        };
        variables.insert(variable["name"].as_str().unwrap().to_owned(), value.to_owned());
    }
    let expanded = |word: &Value| {
        let word = word.as_str().unwrap().to_owned();
        variables
            .iter()
            .fold(word, |word, (name, value)| word.replace(&format!("$({name})"), value))
    };
    layout.arguments = container["args"]
        .as_array()
        .into_iter()
        .flatten()
        .map(expanded)
        .collect();
    layout.environment.extend(variables);
    layout.files.clear();
    layout.writable.clear();
    layout.volumes.clear();
    let group = layout.group;
    for mount in container["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let mode = volume["secret"]["defaultMode"]
            .as_u64()
            .map(|mode| u32::try_from(mode).unwrap());
        let mut file = |name: &str, text: &str| {
            layout
                .files
                .push((format!("{path}/{name}"), text.to_owned(), mode.unwrap(), (0, group)));
        };
        match volume["secret"]["secretName"].as_str() {
            Some("keyround") => {
                file("master.key", MASTER_KEY);
                file("database-url", &database.url);
            }
            Some("keyround-owner") => file("database-url", &database.url),
            Some(other) => panic!("no secret {other}"),
            None if !volume["configMap"].is_null() => {
                assert_eq!(volume["configMap"], json!({ "name": "keyround-ca", "optional": true }));
            }
            None => {
                layout.volumes.push((path.to_owned(), 0o2775, (0, group)));
                layout.writable.push(path.to_owned());
            }
        }
        assert_eq!(mount["readOnly"] == true, volume["persistentVolumeClaim"].is_null());
    }
    layout
}

fn installed_at<'a>(layout: &'a mut Layout, folder: &Path) -> Deployment<'a> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
    let deployment = Deployment::install(layout, folder);
    link_as_the_kubelet_does(&deployment);
    deployment
}

/// The Job migrates as the owner; then servers and the backup do with the other role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_migrate_and_back_up_with_the_roles_of_the_page() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    let suffix = database.url.rsplit('/').next().unwrap().to_owned();
    let [before, after] = crate::database_roles::grants(&suffix).try_into().unwrap();
    let raw = crate::rows::Raw::open(&database).await;
    raw.execute(&before).await;
    let owner = crate::database_roles::as_role(&database, &format!("owner_{suffix}"));
    let server = crate::database_roles::as_role(&database, &format!("server_{suffix}"));

    let migrating = pod_of_a_job(MIGRATE);
    let mut layout = job(
        &migrating,
        &migrating["containers"][0],
        "keyround-migrate-x7k2p",
        &owner,
    );
    assert!(
        layout.files.iter().all(|(path, ..)| !path.contains("master")),
        "a migration needs no master key"
    );
    let folder = tempfile::tempdir().unwrap();
    let deployment = installed_at(&mut layout, folder.path());
    let migrate = |deployment: &Deployment<'_>| {
        let arguments: Vec<&str> = deployment.layout.arguments.iter().map(String::as_str).collect();
        let output = deployment.command(&arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (is_done, said) = migrate(&deployment);
    assert!(
        is_done && said.contains("the schema was brought from version 0"),
        "{said}"
    );
    let (is_done, said) = migrate(&deployment);
    assert!(is_done && said.contains("up to date"), "{said}");
    raw.execute(&after).await;

    let mut layout = pod(&server);
    let folder = tempfile::tempdir().unwrap();
    layout
        .environment
        .insert("KEYROUND_SERVER__SHUTDOWN_DELAY".to_owned(), "1s".to_owned());
    let mut serving = installed_at(&mut layout, folder.path());
    serving.start().await;

    let backing_up = pod_of_a_job(BACKUP);
    for name in ["keyround-backup-29432117-abcde", "keyround-backup-29433557-fghij"] {
        let mut layout = job(&backing_up, &backing_up["initContainers"][0], name, &server);
        let folder = tempfile::tempdir().unwrap();
        let deployment = installed_at(&mut layout, folder.path());
        let (is_done, said) = migrate(&deployment);
        assert!(is_done && said.contains(name), "{said}");
        let file = deployment.root.join(format!("var/backups/keyround/{name}.jsonl"));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        // The same pod does not overwrite it.
        assert!(!migrate(&deployment).0);
        // What deletes old ones reaches them in the same volume, and leaves this one.
        let cleaner = &backing_up["containers"][0];
        assert_eq!(
            cleaner["volumeMounts"][0],
            *backing_up["initContainers"][0]["volumeMounts"]
                .as_array()
                .unwrap()
                .last()
                .unwrap()
        );
        let words: Vec<String> = cleaner["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| {
                let word = word.as_str().unwrap();
                word.replace("/var/backups/keyround", file.parent().unwrap().to_str().unwrap())
            })
            .collect();
        let old = file.with_file_name("keyround-backup-1-old.jsonl");
        std::fs::write(&old, "old").unwrap();
        let aged = Command::new("touch").args(["-d", "40 days ago"]).arg(&old).status();
        assert!(aged.unwrap().success());
        let deleted = Command::new(&words[0]).args(&words[1..]).status();
        assert!(deleted.unwrap().success() && !old.exists() && file.exists());
    }
    serving.stop().await;
}

/// A pod whose `ConfigMap` `keyround-ca` exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_trusts_an_authority_of_its_own() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    let (name, path) = PAGE
        .split_once("add `KEYROUND_OUTBOUND__CA_FILE: ")
        .map(|(_, rest)| ("KEYROUND_OUTBOUND__CA_FILE", rest.split('`').next().unwrap()))
        .unwrap();
    assert!(PAGE.contains(&format!("&sslrootcert={path}`")));
    let documents = documents();
    let spec = &the(&documents, "StatefulSet", "keyround")["spec"]["template"]["spec"];
    let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "ca").unwrap();
    let folder = Path::new(path).parent().unwrap();
    assert_eq!(mount["mountPath"], folder.to_str().unwrap());
    let file = Path::new(path).file_name().unwrap().to_str().unwrap();
    assert!(PAGE.contains(&format!("create configmap keyround-ca --from-file={file}")));

    let certificates = tempfile::tempdir().unwrap();
    let (_, certificate) = self_signed(certificates.path());
    let pem = std::fs::read_to_string(certificate).unwrap();
    for (content, is_taken) in [
        (Some(pem.as_str()), true),
        (Some("no certificate"), false),
        (None, false),
    ] {
        let mut layout = pod(&database);
        layout.environment.insert(name.to_owned(), path.to_owned());
        layout
            .environment
            .insert("KEYROUND_SERVER__SHUTDOWN_DELAY".to_owned(), "1s".to_owned());
        // A ConfigMap is readable by everyone in the pod.
        if let Some(content) = content {
            layout
                .files
                .push((path.to_owned(), content.to_owned(), 0o644, (0, layout.group)));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut deployment = installed_at(&mut layout, folder.path());
        if is_taken {
            deployment.start().await;
            deployment.stop().await;
            continue;
        }
        let output = deployment.run(&["serve"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(path), "{said}");
    }
}
