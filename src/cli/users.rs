//! `keyround users`: who has an account.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::accounts::email::Email;
use crate::accounts::password_hash::{HashCost, MAX_REFUSED_LOGIN, PasswordHash};
use crate::accounts::tenant::TenantId;
use crate::accounts::user::{InvalidName, Name, Role, User, UserId, distinct_roles};
use crate::clock::UnixTime;
use crate::config::Config;
use crate::events::{Entry, Event};
use crate::store::Db;
use crate::store::users::{PAGE, StoredUser, UserChange};
use crate::text;
use crate::values::SessionId;

use super::confirm::Confirmation;
use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::{list, output, password};

#[derive(Subcommand)]
pub enum UsersCommand {
    /// Make an account.
    Create(NewUserArguments),
    /// List accounts by id, a page at a time.
    List {
        /// Only those of this tenant.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
        /// Only those after this one: the last id of the page before.
        #[arg(long, value_name = "USER_ID")]
        after: Option<UserId>,
        /// How many at most.
        #[arg(long, value_name = "N", default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE)))]
        limit: u32,
    },
    /// Show one account.
    Show {
        /// The account, by its id or its e-mail address.
        #[arg(allow_hyphen_values = true)]
        user: Named,
    },
    /// Refuse an account from now on, and end its sessions.
    Suspend {
        #[command(flatten)]
        target: UserTarget,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Let a suspended account act again; its sessions stay ended.
    Resume {
        #[command(flatten)]
        target: UserTarget,
    },
    /// Give an account another password, and end its sessions.
    SetPassword {
        #[command(flatten)]
        target: UserTarget,
        #[command(flatten)]
        password: password::NewPassword,
    },
    /// Give an account other roles; they stand in access tokens from the next one on.
    SetRoles {
        #[command(flatten)]
        target: UserTarget,
        /// What it is to be, in place of what it was.
        #[arg(long = "role", value_name = "ROLE", num_args = 1.., conflicts_with = "no_roles", value_parser = list::item::<Role>)]
        roles: Vec<Role>,
        /// Take every role away.
        #[arg(long)]
        no_roles: bool,
    },
    /// End every session of an account; it may log in again.
    EndSessions {
        #[command(flatten)]
        target: UserTarget,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Delete an account: the person is forgotten, the audit log keeps the id.
    Delete {
        #[command(flatten)]
        target: UserTarget,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Args)]
pub struct NewUserArguments {
    /// The address that it logs in with.
    #[arg(long, allow_hyphen_values = true)]
    email: Email,
    /// The address is known to be the person's.
    #[arg(long)]
    email_verified: bool,
    /// What the person is called.
    #[arg(long, allow_hyphen_values = true, value_parser = name)]
    name: Name,
    /// The tenant that it belongs to.
    #[arg(long, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// What it is, for services: a coarse role such as admin.
    #[arg(long = "role", value_name = "ROLE", num_args = 1.., value_parser = list::item::<Role>)]
    roles: Vec<Role>,
    #[command(flatten)]
    password: password::First,
}

#[derive(Args)]
pub struct UserTarget {
    /// The account, by its id or its e-mail address.
    #[arg(allow_hyphen_values = true)]
    user: Named,
    /// Why, for the audit log, which outlives the account: name no person.
    #[arg(long, value_name = "TEXT", default_value = "asked for", allow_hyphen_values = true, value_parser = super::confirm::worded)]
    reason: String,
}

/// A name may begin with a hyphen, so clap takes a flag for one.
fn name(text: &str) -> Result<Name, String> {
    if text.starts_with("--") {
        return Err("it looks like a flag; write the name behind --name".to_owned());
    }
    text.parse().map_err(|error: InvalidName| error.to_string())
}

/// How an account is named.
#[derive(Clone)]
pub enum Named {
    Id(UserId),
    Email(Email),
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An address may begin with a hyphen, so clap takes a mistyped flag for one.
        if text.starts_with("--") && !text.contains('@') {
            return Err("there is no such flag, and it is no account");
        }
        // The capitals of a UUID mean nothing (RFC 9562 section 4). Only what people type has them: a token has one spelling.
        let id = text.to_ascii_lowercase().parse().map(Self::Id);
        id.or_else(|_| Email::presented(text).map(Self::Email)).map_err(
            |_| "an account is named by its e-mail address or its id, such as 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b",
        )
    }
}

impl Named {
    async fn find(&self, db: &Db) -> Result<StoredUser, Failure> {
        let (found, name) = match self {
            Self::Id(id) => (db.user(*id).await?, id.to_string()),
            Self::Email(email) => (db.user_by_email(email).await?, email.to_string()),
        };
        found.ok_or_else(|| {
            Failure::Refused(format!(
                "there is no account {}; 'keyround users list' names them all",
                text::quoted(&name)
            ))
        })
    }
}

pub async fn run(context: &Context, command: UsersCommand) -> Result<(), Failure> {
    match command {
        UsersCommand::Create(new) => create(context, new).await,
        UsersCommand::List { tenant, after, limit } => list(context, tenant.as_ref(), after, limit).await,
        UsersCommand::Show { user } => show(context, &user).await,
        UsersCommand::Suspend { target, confirmation } => {
            let question = "It can do nothing until it is resumed, and its sessions end.";
            let asked = Some((&confirmation, "the suspension", question));
            let told = ["is suspended", "was suspended already"];
            change(context, &target, UserChange::Suspend, Event::UserSuspended, told, asked).await
        }
        UsersCommand::Resume { target } => {
            let told = ["may log in again", "was not suspended"];
            change(context, &target, UserChange::Resume, Event::UserResumed, told, None).await
        }
        UsersCommand::SetPassword { target, password } => set_password(context, &target, &password).await,
        UsersCommand::SetRoles {
            target,
            roles,
            no_roles,
        } => {
            if roles.is_empty() && !no_roles {
                return Err(Failure::Usage(
                    "no role was given; name all that the account is to have (--role ROLE), or take every role away by --no-roles".to_owned(),
                ));
            }
            let roles = distinct_roles(roles).map_err(|error| Failure::Usage(error.to_string()))?;
            let told = ["has other roles from its next access token on", "is gone"];
            let new = UserChange::SetRoles(roles);
            change(context, &target, new, Event::UserRolesChanged, told, None).await
        }
        UsersCommand::EndSessions { target, confirmation } => {
            let asked = Some((
                &confirmation,
                "the end of all sessions",
                "Every device must log in again.",
            ));
            let told = ["must log in again", "is gone"];
            change(
                context,
                &target,
                UserChange::EndSessions,
                Event::UserSessionsEnded,
                told,
                asked,
            )
            .await
        }
        UsersCommand::Delete { target, confirmation } => {
            let asked = Some((&confirmation, "the deletion", "This cannot be undone."));
            let told = ["is deleted", "is gone"];
            change(context, &target, UserChange::Delete, Event::UserDeleted, told, asked).await
        }
    }
}

/// The refusal of a tenant that is none.
pub fn unknown_tenant(id: &TenantId) -> Failure {
    Failure::Refused(format!(
        "there is no tenant {}; 'keyround tenants list' names them all",
        text::quoted(id.as_str())
    ))
}

fn entry(event: Event, id: UserId, now: UnixTime, reason: &str) -> Entry {
    Entry::new(event, id, now, ACTOR.as_str(), reason)
}

async fn create(context: &Context, new: NewUserArguments) -> Result<(), Failure> {
    let roles = distinct_roles(new.roles).map_err(|error| Failure::Usage(error.to_string()))?;
    let (config, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    if db.tenant(&new.tenant).await?.is_none() {
        return Err(unknown_tenant(&new.tenant));
    }
    let now = context.clock.read().wall;
    let user = User {
        id: UserId::generate(now),
        tenant: new.tenant,
        email: new.email,
        email_verified_at: new.email_verified.then_some(now),
        name: new.name,
        roles,
        created_at: now,
        suspended_at: None,
    };
    let password_hash = new.password.hash(&user, &config, &foundation.hash_key)?;
    if let Some(hash) = &password_hash {
        refuse_costly_kind(db, &config, hash).await?;
    }
    let stored = StoredUser { user, password_hash };
    let entry = entry(Event::UserCreated, stored.user.id, now, "made by an operator");
    if !db.create_user(&stored, &entry).await? {
        return Err(Failure::Refused(format!(
            "there is an account with the address {} already; 'keyround users show' shows it",
            stored.user.email
        )));
    }
    if context.json {
        output::json(&stored_json(&stored));
    } else {
        output::line(&format!("user id  {}", stored.user.id));
        output::line(&format!("e-mail   {}", stored.user.email));
        output::line(&format!("tenant   {}", stored.user.tenant));
        if stored.password_hash.is_none() {
            output::line(
                "It has no password: the person logs in by a provider that vouches for this address ('keyround providers'), or by a password \
                 that 'keyround users set-password' gives.",
            );
        }
    }
    Ok(())
}

/// Every wrong password pays for every kind of hash that is stored, so a kind that would make it cost too much is not stored.
async fn refuse_costly_kind(db: &Db, config: &Config, hash: &str) -> Result<(), Failure> {
    let Ok(hash) = PasswordHash::parse(hash) else {
        return Ok(());
    };
    let mut costs = db.password_hash_costs().await?;
    costs.insert(config.accounts.logins.password_hash.cost());
    let before = HashCost::of_refused_login(&costs);
    costs.insert(hash.cost());
    let after = HashCost::of_refused_login(&costs);
    if after <= MAX_REFUSED_LOGIN || after == before {
        return Ok(());
    }
    let milliseconds = |time: Duration| time.as_micros().div_ceil(1_000);
    Err(Failure::Refused(format!(
        "this hash costs too much beside the hashes that are stored: every wrong password does the work of every kind of stored \
         hash, so that its time does not tell which accounts exist. With this kind that would be about {} ms, now it is {} ms, and at \
         most {} ms are allowed; create the account with --password-file or --ask-password, or without a password",
        milliseconds(after),
        milliseconds(before),
        milliseconds(MAX_REFUSED_LOGIN),
    )))
}

/// An account as programs read it.
fn to_json(user: &User) -> Value {
    json!({
        "user_id": user.id,
        "email": user.email,
        "email_verified_at": user.email_verified_at.map(UnixTime::rfc3339),
        "name": user.name,
        "tenant_id": user.tenant,
        "roles": user.roles,
        "created_at": user.created_at.rfc3339(),
        "suspended_at": user.suspended_at.map(UnixTime::rfc3339),
    })
}

fn stored_json(stored: &StoredUser) -> Value {
    let mut shown = to_json(&stored.user);
    shown["has_password"] = json!(stored.password_hash.is_some());
    shown
}

async fn list(context: &Context, tenant: Option<&TenantId>, after: Option<UserId>, limit: u32) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    if let Some(tenant) = tenant
        && db.tenant(tenant).await?.is_none()
    {
        return Err(unknown_tenant(tenant));
    }
    let users = db.users(tenant, after, limit).await?;
    if context.json {
        output::json(&users.iter().map(to_json).collect::<Vec<_>>());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = users.iter().map(row).collect();
    let headings = ["USER", "STATE", "TENANT", "E-MAIL", "ROLES"];
    output::line(&output::table(&headings, &rows));
    if let Some(last) = users.last()
        && users.len() == limit as usize
    {
        output::line(&format!("\nThere may be more: --after {}", last.id));
    }
    Ok(())
}

fn row(user: &User) -> Vec<String> {
    let state = if user.suspended_at.is_some() {
        "suspended"
    } else {
        "active"
    };
    vec![
        user.id.to_string(),
        state.to_owned(),
        user.tenant.to_string(),
        user.email.to_string(),
        words(&user.roles),
    ]
}

fn words(roles: &[Role]) -> String {
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(" ")
}

async fn show(context: &Context, user: &Named) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    let stored = user.find(&db).await?;
    if context.json {
        output::json(&stored_json(&stored));
        return Ok(());
    }
    let now = context.clock.read().wall;
    let user = &stored.user;
    let time = |at: UnixTime| output::time(at, now);
    let state = user.suspended_at.map_or_else(
        || "active".to_owned(),
        |suspended_at| format!("suspended since {}", time(suspended_at)),
    );
    let verified = user
        .email_verified_at
        .map_or_else(|| "no".to_owned(), |at| format!("since {}", time(at)));
    let password = if stored.password_hash.is_some() { "set" } else { "none" };
    for (name, value) in [
        ("user id", user.id.to_string()),
        ("state", state),
        ("e-mail", user.email.to_string()),
        ("verified", verified),
        ("name", output::printable(user.name.as_str())),
        ("tenant", user.tenant.to_string()),
        ("roles", words(&user.roles)),
        ("password", password.to_owned()),
        ("created", time(user.created_at)),
    ] {
        output::line(format!("{name:<15}{value}").trim_end());
    }
    Ok(())
}

/// What is asked before a change: how it is confirmed, what it is called, and what follows from it.
type AskedBefore<'a> = Option<(&'a Confirmation, &'a str, &'a str)>;

/// Changes an account; `told` says what is so now, and what was so already.
async fn change(
    context: &Context,
    target: &UserTarget,
    change: UserChange,
    event: Event,
    told: [&str; 2],
    asked: AskedBefore<'_>,
) -> Result<(), Failure> {
    let (config, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let user = target.user.find(db).await?.user;
    if matches!(change, UserChange::Suspend) && user.suspended_at.is_some() {
        tell(context, &config, &user, None, told);
        return Ok(());
    }
    if let Some((confirmation, what, follows)) = asked {
        confirmation.can_be_given(what)?;
        confirmation.ask(&format!(
            "You asked for {what} of {} ({}). {follows}",
            user.email, user.id
        ))?;
    }
    let reason = match &change {
        UserChange::SetRoles(new) => format!("{} (from '{}' to '{}')", target.reason, words(&user.roles), words(new)),
        _ => target.reason.clone(),
    };
    let entry = entry(event, user.id, context.clock.read().wall, &reason);
    let ended = db.change_user(user.id, &change, &entry).await?;
    if matches!(change, UserChange::Delete) {
        db.empty_log().await?;
    }
    tell(context, &config, &user, ended.as_deref(), told);
    Ok(())
}

async fn set_password(context: &Context, target: &UserTarget, password: &password::NewPassword) -> Result<(), Failure> {
    let (config, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let user = target.user.find(db).await?.user;
    let hash = password.hash(&user, &config, &foundation.hash_key)?;
    let entry = entry(
        Event::UserPasswordChanged,
        user.id,
        context.clock.read().wall,
        &target.reason,
    );
    let change = UserChange::SetPassword { hash };
    let ended = db.change_user(user.id, &change, &entry).await?;
    tell(
        context,
        &config,
        &user,
        ended.as_deref(),
        ["has another password", "is gone"],
    );
    Ok(())
}

/// Says what was done: nothing, when there are no sessions that it could have ended.
fn tell(context: &Context, config: &Config, user: &User, ended: Option<&[SessionId]>, told: [&str; 2]) {
    let count = ended.map_or(0, <[_]>::len);
    if context.json {
        output::json(&json!({ "user_id": user.id, "changed": ended.is_some(), "ended_sessions": count }));
        return;
    }
    output::line(&format!("user {} {}", user.id, told[usize::from(ended.is_none())]));
    if count > 0 {
        let now = context.clock.read().wall;
        output::line(&format!("ended {}; {}", sessions(count), refusal(config, now)));
    }
}

pub(super) fn sessions(count: usize) -> String {
    match count {
        1 => "1 session".to_owned(),
        count => format!("{count} sessions"),
    }
}

/// How fast what has ended is refused.
pub(super) fn refusal(config: &Config, now: UnixTime) -> String {
    format!(
        "every server refuses its tokens within {}, and a service that verifies offline from {} on",
        config.keys.policy.windows().replica_refresh,
        output::time(now + config.accounts.client.access_token_ttl, now)
    )
}
