//! `keyround clients delete`.

use crate::accounts::session::EndedBy;
use crate::events::{Entry, Event};
use crate::oauth::client::ClientId;
use crate::store::Db;
use crate::store::clients::ClientChange;
use crate::store::sessions::ENDED_AT_ONCE;

use super::{change_client, entry, keys, unknown, words};
use crate::cli::confirm::{Confirmation, Reason};
use crate::cli::context::{ACTOR, Context};
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
         after their issue. How many there are is not recorded. What people granted it ends. 'clients disable' can be taken back.",
    ))?;
    // A node that knows of no change yet may redeem a code meanwhile: a disabled client gets no new grant, and the last look is after the
    // end of the client.
    let disabled = entry(
        Event::ClientDisabled,
        id,
        context.clock.read().wall,
        &ACTOR,
        "it is being deleted",
    );
    db.change_client(id, &ClientChange::Disable, &disabled).await?;
    end_grants(context, &db, id).await?;
    change_client(
        context,
        id,
        &ClientChange::Delete,
        why,
        Event::ClientDeleted,
        ["is deleted", "was deleted already"],
    )
    .await?;
    end_grants(context, &db, id).await
}

/// Ends everything that people granted to this client: its id may be given to another one.
async fn end_grants(context: &Context, db: &Db, id: &ClientId) -> Result<(), Failure> {
    let mut last = None;
    loop {
        // Each transaction is stamped by itself: an end counts from its stamp.
        let now = context.clock.read().wall;
        let entry = Entry::new(Event::SessionEnded, "", now, &*ACTOR, "its client was deleted");
        let ended = db.end_some_grants_of(id, last, EndedBy::Operator, &entry).await?;
        if ended.len() < ENDED_AT_ONCE as usize {
            return Ok(());
        }
        last = ended.last().copied();
    }
}
