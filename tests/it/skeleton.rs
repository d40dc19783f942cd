//! The walking skeleton: a client gets a token that verifies against the set that is served.

use keyround::jose::jwk::PublicJwk;
use keyround::jose::jwt::verify_access_token_signature;

use crate::helpers::TestApp;

crate::on_both_databases!(a_token_verifies_against_the_served_set, |database| {
    let app = TestApp::start_with_clock(&database, &[], keyround::clock::Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    let token = app.token("billing", &secret).await;
    let keys: Vec<PublicJwk> = app.key_set().await["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| PublicJwk::parse(&key.to_string()).unwrap())
        .collect();
    assert_eq!(keys.len(), 2);
    let claims = verify_access_token_signature(&token, &keys).unwrap();
    assert_eq!(claims["sub"], "billing");
    app.running.stop().await;
});
