//! What happens at once, on two nodes.

use reqwest::Response;
use serde_json::json;

use super::party::{
    CALLBACK, VERIFIER, answer_of, leads_to, log_in, log_in_at, own, query, redeem, refresh, register, send, third,
    userinfo, visit,
};
use super::registration::command;
use crate::auth::visitor::{Site, Visitor, email};
use crate::helpers::{TestApp, TestDatabase, answered};

/// Keys that are made in no time.
const SETTINGS: [(&str, &str); 4] = [
    ("keys.replica_refresh", "15s"),
    ("keys.algorithms", "ES256"),
    ("tokens.default_algorithm", "ES256"),
    ("accounts.bcrypt_cost", "4"),
];

async fn second_node(site: &Site) -> TestApp {
    TestApp::start_with_clock(&site.database, &SETTINGS, site.app.clock.clone()).await
}

/// What takes a login away.
#[derive(Clone, Copy, Debug)]
enum End {
    Logout,
    Suspension,
    Deletion,
}

impl End {
    const ALL: [Self; 3] = [Self::Logout, Self::Suspension, Self::Deletion];

    /// It happens at the other node, or by a command.
    async fn happen(self, site: &Site, other: &TestApp, visitor: &Visitor<'_>, name: &str) {
        let address = email(name);
        match self {
            Self::Logout => {
                let mut elsewhere = visitor.at(other);
                assert_eq!(elsewhere.post("/auth/logout", None).await.status(), 204);
            }
            Self::Suspension => {
                command(site, &["users", "suspend", &address, "--yes"]);
            }
            Self::Deletion => {
                command(site, &["users", "delete", &address, "--yes"]);
            }
        }
    }
}

/// Where a person stops on the way to a client.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The login session is there.
    LoggedIn,
    /// The consent page is shown.
    Asked,
    /// The browser has the code.
    CodeGiven,
    /// The client has its tokens.
    Redeemed,
}

impl Step {
    const ALL: [Self; 4] = [Self::LoggedIn, Self::Asked, Self::CodeGiven, Self::Redeemed];
}

/// What redeems a code of the client `app`.
fn form(code: &str) -> [(&'static str, &str); 5] {
    [
        ("grant_type", "authorization_code"),
        ("client_id", "app"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ]
}

async fn text(answer: Response) -> String {
    answer.text().await.unwrap()
}

/// However far a login has come: after its end on another node it gets nothing more.
async fn end_in_the_middle_of_each_step(database: TestDatabase) {
    let site = Site::start_beside_commands(database, &[]).await;
    let other = second_node(&site).await;
    register(&site, &own("app")).await;
    register(&site, &third("third")).await;
    let scope = [("scope", "openid offline_access")];
    let asked = query("app", &scope);
    for (number, (end, step)) in End::ALL
        .into_iter()
        .flat_map(|end| Step::ALL.map(|step| (end, step)))
        .enumerate()
    {
        let name = format!("person-{number}");
        let what = format!("{end:?} after {step:?}");
        site.register(&name).await;
        let mut person = site.visitor();
        match step {
            Step::LoggedIn => {
                let page = text(visit(&mut person, &asked).await).await;
                let next = leads_to(&text(log_in(&mut person, &page, &name).await).await);
                end.happen(&site, &other, &person, &name).await;
                let page = visit(&mut person, next.split_once('?').unwrap().1).await;
                assert_eq!(page.status(), 200, "{what}");
                assert!(text(page).await.contains("name=\"password\""), "{what}");
                let silent = query("app", &[("prompt", "none")]);
                let refused = answer_of(&visit(&mut person, &silent).await);
                assert_eq!(refused["error"], "login_required", "{what}");
            }
            Step::Asked => {
                let asked = query("third", &scope);
                let page = text(visit(&mut person, &asked).await).await;
                let next = leads_to(&text(log_in(&mut person, &page, &name).await).await);
                let page = text(visit(&mut person, next.split_once('?').unwrap().1).await).await;
                end.happen(&site, &other, &person, &name).await;
                let answer = send(
                    &mut person,
                    "/oauth2/authorize/consent",
                    &page,
                    &[("decision", "allow")],
                )
                .await;
                assert!(text(answer).await.contains("name=\"password\""), "{what}");
                assert_eq!(site.raw.number("SELECT count(*) FROM consents").await, 0, "{what}");
                let codes = "SELECT count(*) FROM authorization_codes WHERE client_id = 'third'";
                assert_eq!(site.raw.number(codes).await, 0, "{what}");
            }
            Step::CodeGiven | Step::Redeemed => {
                let code = log_in_at(&mut person, &name, &asked).await;
                let tokens = match step {
                    Step::Redeemed => Some(redeem(&site, "app", &code, &[]).await.1),
                    _ => None,
                };
                end.happen(&site, &other, &person, &name).await;
                let Some(tokens) = tokens else {
                    let (status, refused) = redeem(&site, "app", &code, &[]).await;
                    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "{what}");
                    continue;
                };
                let (status, refused) = refresh(&site, "app", &tokens).await;
                assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "{what}");
                site.app.running.server.keyring.refresh().await.unwrap();
                let access_token = tokens["access_token"].as_str().unwrap();
                assert_eq!(userinfo(&site, access_token).await.0, 401, "{what}");
            }
        }
    }
    let live = "SELECT count(*) FROM sessions WHERE client_id IN ('app', 'third') AND revoked_at IS NULL";
    assert_eq!(site.raw.number(live).await, 0);
    other.running.stop().await;
    site.stop().await;
}

crate::on_both_databases!(an_end_in_the_middle_of_each_step_leaves_nothing, |database| {
    end_in_the_middle_of_each_step(database).await;
});

crate::on_both_databases!(an_end_and_a_redemption_at_once_leave_nothing, |database| {
    let site = Site::start_beside_commands(database, &[]).await;
    let other = second_node(&site).await;
    register(&site, &own("app")).await;
    let mut redeemed = 0;
    for (number, end) in std::iter::repeat_n(End::Logout, 12)
        .chain(std::iter::repeat_n(End::Suspension, 4))
        .enumerate()
    {
        let name = format!("person-{number}");
        site.register(&name).await;
        let mut person = site.visitor();
        let code = log_in_at(&mut person, &name, &query("app", &[])).await;
        let redemption = site.app.http.post(format!("{}/oauth2/token", site.app.url));
        // A command holds its thread up.
        let redemption = tokio::spawn(answered(redemption.form(&form(&code))));
        end.happen(&site, &other, &person, &name).await;
        let status = redemption.await.unwrap().status();
        redeemed += usize::from(status == 200);
        // Whichever of the two was first.
        let live = "SELECT count(*) FROM sessions WHERE client_id = 'app' AND revoked_at IS NULL";
        assert_eq!(site.raw.number(live).await, 0, "{end:?}: {status}");
    }
    println!("{redeemed} of 16 codes were redeemed before the end");
    other.running.stop().await;
    site.stop().await;
});

crate::on_both_databases!(one_code_64_times_at_once_gives_one_answer, |database| {
    let site = Site::start(database, &[]).await;
    let other = second_node(&site).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    let form = form(&code);
    let mut asked = tokio::task::JoinSet::new();
    for turn in 0..64 {
        let app = if turn % 2 == 0 { &site.app } else { &other };
        asked.spawn(answered(app.http.post(format!("{}/oauth2/token", app.url)).form(&form)));
    }
    let mut granted = Vec::new();
    for answer in asked.join_all().await {
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        if status == 200 {
            granted.push(body["access_token"].as_str().unwrap().to_owned());
        } else {
            assert_eq!((status, &body["error"]), (400, &json!("invalid_grant")), "{body}");
        }
    }
    assert_eq!(granted.len(), 1);
    assert_eq!(
        site.raw
            .number("SELECT count(*) FROM sessions WHERE client_id = 'app'")
            .await,
        1
    );
    // It came again, so what it got has ended.
    assert_eq!(
        site.raw
            .number("SELECT count(*) FROM sessions WHERE client_id = 'app' AND revoked_at IS NULL")
            .await,
        0
    );
    site.app.running.server.keyring.refresh().await.unwrap();
    assert_eq!(userinfo(&site, &granted[0]).await.0, 401);
    other.running.stop().await;
    site.stop().await;
});
