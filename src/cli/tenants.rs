//! `keyround tenants`: who users belong to.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::accounts::tenant::{Tenant, TenantId};
use crate::clock::UnixTime;
use crate::events::{Entry, Event};
use crate::store::Db;
use crate::store::tenants::TenantChange;

use super::confirm::Confirmation;
use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::{output, users};

/// How many tenants are read at once.
const PAGE: u32 = 100;

#[derive(Subcommand)]
pub enum TenantsCommand {
    /// Make a tenant.
    Create {
        /// Its id, which stands in tokens as tid.
        id: TenantId,
        /// What people call it; its id when left out.
        #[arg(long, allow_hyphen_values = true, value_parser = super::confirm::worded)]
        name: Option<String>,
    },
    /// List every tenant.
    List,
    /// Refuse every user of a tenant from now on, and end their sessions.
    Disable {
        #[command(flatten)]
        target: TenantTarget,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Let the users of a disabled tenant log in again; their sessions stay ended.
    Enable {
        #[command(flatten)]
        target: TenantTarget,
    },
}

#[derive(Args)]
pub struct TenantTarget {
    /// The tenant.
    id: TenantId,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "asked for", allow_hyphen_values = true, value_parser = super::confirm::worded)]
    reason: String,
}

pub async fn run(context: &Context, command: TenantsCommand) -> Result<(), Failure> {
    match command {
        TenantsCommand::Create { id, name } => create(context, id, name).await,
        TenantsCommand::List => list(context).await,
        TenantsCommand::Disable { target, confirmation } => {
            let (_, db) = context.database().await?;
            let tenant = db.tenant(&target.id).await?;
            let tenant = tenant.ok_or_else(|| users::unknown_tenant(&target.id))?;
            if tenant.disabled_at.is_some() {
                tell_unchanged(context, &target.id);
                return Ok(());
            }
            confirmation.can_be_given("that a tenant is disabled")?;
            confirmation.ask(&format!(
                "Nobody of tenant {} will be able to do anything until it is enabled, and all their sessions end.",
                target.id
            ))?;
            let told = ["is disabled", "was disabled already"];
            change(context, &target, TenantChange::Disable, Event::TenantDisabled, told).await
        }
        TenantsCommand::Enable { target } => {
            let told = ["is enabled", "was enabled already"];
            change(context, &target, TenantChange::Enable, Event::TenantEnabled, told).await
        }
    }
}

fn entry(event: Event, id: &TenantId, now: UnixTime, reason: &str) -> Entry {
    Entry::new(event, id, now, ACTOR.as_str(), reason)
}

async fn create(context: &Context, id: TenantId, name: Option<String>) -> Result<(), Failure> {
    let (_, foundation) = context.foundation().await?;
    let tenant = Tenant {
        name: name.unwrap_or_else(|| id.to_string()),
        id,
        created_at: context.clock.read().wall,
        disabled_at: None,
    };
    let entry = entry(
        Event::TenantCreated,
        &tenant.id,
        tenant.created_at,
        "made by an operator",
    );
    if !foundation.rotator.db.create_tenant(&tenant, &entry).await? {
        return Err(Failure::Refused(format!(
            "there is a tenant '{}' already; choose another id",
            tenant.id
        )));
    }
    if context.json {
        output::json(&to_json(&tenant));
    } else {
        output::line(&format!("tenant {} is made", tenant.id));
    }
    Ok(())
}

fn to_json(tenant: &Tenant) -> Value {
    json!({
        "tenant_id": tenant.id,
        "name": tenant.name,
        "created_at": tenant.created_at.rfc3339(),
        "disabled_at": tenant.disabled_at.map(UnixTime::rfc3339),
    })
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    let tenants = all(&db).await?;
    if context.json {
        output::json(&tenants.iter().map(to_json).collect::<Vec<_>>());
        return Ok(());
    }
    let now = context.clock.read().wall;
    let rows: Vec<Vec<String>> = tenants
        .iter()
        .map(|tenant| {
            let state = tenant.disabled_at.map_or("enabled", |_| "disabled");
            vec![
                tenant.id.to_string(),
                state.to_owned(),
                output::time(tenant.created_at, now),
                output::printable(&tenant.name),
            ]
        })
        .collect();
    output::line(&output::table(&["TENANT", "STATE", "CREATED", "NAME"], &rows));
    Ok(())
}

async fn all(db: &Db) -> Result<Vec<Tenant>, Failure> {
    let mut tenants: Vec<Tenant> = Vec::new();
    loop {
        let page = db.tenants(tenants.last().map(|last| &last.id), PAGE).await?;
        if page.is_empty() {
            return Ok(tenants);
        }
        tenants.extend(page);
    }
}

/// Says that nothing was to be done, without a question.
fn tell_unchanged(context: &Context, id: &TenantId) {
    if context.json {
        output::json(&json!({ "tenant_id": id, "changed": false, "ended_sessions": 0 }));
    } else {
        output::line(&format!("tenant {id} was disabled already"));
    }
}

/// Changes a tenant; `told` says what is so now, and what was so already.
async fn change(
    context: &Context,
    target: &TenantTarget,
    change: TenantChange,
    event: Event,
    told: [&str; 2],
) -> Result<(), Failure> {
    let (config, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let entry = entry(event, &target.id, context.clock.read().wall, &target.reason);
    let ended = db.change_tenant(&target.id, change, &entry).await?;
    if ended.is_none() && db.tenant(&target.id).await?.is_none() {
        return Err(users::unknown_tenant(&target.id));
    }
    let count = usize::try_from(ended.unwrap_or(0)).unwrap_or(usize::MAX);
    if context.json {
        output::json(&json!({ "tenant_id": target.id, "changed": ended.is_some(), "ended_sessions": count }));
        return Ok(());
    }
    output::line(&format!("tenant {} {}", target.id, told[usize::from(ended.is_none())]));
    if count > 0 {
        let refusal = users::refusal(&config, context.clock.read().wall);
        output::line(&format!("ended {}; {refusal}", users::sessions(count)));
    }
    Ok(())
}
