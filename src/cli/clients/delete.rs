//! `keyround clients delete`.

use crate::events::Event;
use crate::oauth::client::ClientId;
use crate::store::clients::ClientChange;

use super::{change_client, keys, unknown, words};
use crate::cli::confirm::{Confirmation, Reason};
use crate::cli::context::Context;
use crate::cli::failure::Failure;

/// Deletes a client, once the person knows what goes with it.
pub async fn run(context: &Context, id: &ClientId, why: &Reason, confirmation: &Confirmation) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let stored = db.client(id).await?.ok_or_else(|| unknown(id))?;
    confirmation.can_be_given("the deletion")?;
    let keys = db.client_keys(id).await?;
    let client = &stored.client;
    let lost = match (&keys, stored.secrets.iter().count()) {
        (Some(keys), _) => format!("its keys ({})", keys::told(keys)),
        (None, 1) => "its secret".to_owned(),
        (None, count) => format!("its {count} secrets"),
    };
    let serves = if client.serves.is_empty() {
        String::new()
    } else {
        format!(" It introspects tokens for {}, which ends.", words(&client.serves))
    };
    // What was signed is recorded nowhere, so that its number is not known.
    let longest = client.token_ttl.unwrap_or(config.tokens.access_token_ttl);
    confirmation.ask(&format!(
        "The client {id} gets no token any more, and {lost} cannot be had back.{serves} Introspection calls \
         the tokens that it was given inactive at once; a service that verifies them by the key set accepts them until they expire, {longest} \
         after their issue. How many there are is not recorded. 'clients disable' can be taken back.",
    ))?;
    change_client(
        context,
        id,
        &ClientChange::Delete,
        why,
        Event::ClientDeleted,
        ["is deleted", "was deleted already"],
    )
    .await
}
