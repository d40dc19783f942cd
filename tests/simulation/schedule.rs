//! Random schedules: a policy, nodes and clocks, and what befalls them, all from one seed.

use keyround::clock::Seconds;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::Kid;
use keyround::jose::key::RsaBits;
use keyround::keys::plan;
use keyround::keys::policy::{Policy, Windows};

use crate::invariants::{Figures, Violation, Watch};
use crate::node::{Life, Node};
use crate::random::Random;
use crate::sabotage::{Focus, Without};
use crate::store::Database;
use crate::world::{Loss, START, World};

/// What a schedule came to.
pub struct Outcome {
    pub violation: Option<Violation>,
    pub figures: Figures,
    pub trace: Vec<String>,
}

/// Runs the schedule of this seed.
pub fn run(seed: u64, without: Without, traced: bool) -> Outcome {
    let mut random = Random::seeded(seed);
    let focus = without.focus();
    let is_long = focus.events.is_empty() && random.once_in(12);
    let policy = if is_long {
        default_policy()
    } else {
        policy(&mut random, focus)
    };
    let half = policy.windows().clock_skew.0 / 2 * 1000;
    let band = match random.between(0, 3) {
        0 => (0, 0),
        1 => (random.between(-half, 0), random.between(0, half)),
        _ => (-half, half),
    };
    let shared = !random.once_in(4);
    let count = if shared { random.between(1, 4) } else { 1 };
    let nodes = (0..count)
        .map(|_| Node::new(policy.clone(), clock(&mut random, band)))
        .collect();
    let mut world = World {
        watch: Watch::new(&policy),
        at: START,
        database: Database::new(shared),
        common_right_at: None,
        loses: None,
        roll_out_pace: if focus.far_ahead { 60 } else { random.pick(&[4, 8, 60]) },
        nodes,
        without,
        band,
        trace: traced.then(Vec::new),
        violation: None,
        random,
    };
    world.note(|_| format!("{policy:?}, clocks {band:?}, shared: {shared}, {count} nodes"));
    let steps = if is_long { 250 } else { 400 };
    let every = world.random.pick(&[6, 15, 60]);
    for step in 0..steps {
        let refresh = policy.windows().replica_refresh.0 * 1000;
        let length = if world.random.once_in(3) {
            refresh / 4
        } else {
            world.random.between(1, refresh / 4)
        };
        world.step(length);
        if world.violation.is_some() {
            break;
        }
        if step > 5 && step < steps * 2 / 3 && world.random.once_in(every) {
            befall(&mut world);
        }
        let calm = step > steps * 2 / 3;
        if is_long || world.random.once_in(if calm { 3 } else { 40 }) {
            skip_quiet_time(&mut world);
        }
    }
    Outcome {
        figures: *world.figures(),
        violation: world.violation,
        trace: world.trace.unwrap_or_default(),
    }
}

fn clock(random: &mut Random, band: (i64, i64)) -> i64 {
    match random.between(0, 2) {
        0 => band.0,
        1 => band.1,
        _ => random.between(band.0, band.1),
    }
}

fn default_policy() -> Policy {
    Policy::new(Windows {
        algorithms: Algorithm::ALL.to_vec(),
        rotation_period: Seconds(30 * 86_400),
        prepublish: Seconds(86_400),
        verifier_cache: Seconds(1_800),
        jwks_max_age: Seconds(300),
        replica_refresh: Seconds(5),
        snapshot_max_age: Seconds(30),
        clock_skew: Seconds(60),
        verifier_leeway: Seconds(300),
        verify_window: None,
        max_token_ttl: Seconds(3_600),
        max_published: 16,
        max_set_bytes: 8_192,
        rsa_bits: RsaBits::Bits2048,
    })
    .expect("the defaults hold")
}

fn algorithms(random: &mut Random) -> Vec<Algorithm> {
    match random.between(0, 3) {
        0 => vec![Algorithm::Rs256],
        1 => vec![Algorithm::Es256],
        _ => Algorithm::ALL.to_vec(),
    }
}

/// A policy with small numbers, often as tight as is accepted.
fn policy(random: &mut Random, focus: Focus) -> Policy {
    let replica_refresh = if focus.tight { 1 } else { random.between(1, 5) };
    let verifier_cache = if focus.tight { 0 } else { random.pick(&[0, 0, 5, 30]) };
    let mut windows = Windows {
        algorithms: Algorithm::ALL.to_vec(),
        rotation_period: Seconds(0),
        prepublish: Seconds(0),
        verifier_cache: Seconds(verifier_cache),
        jwks_max_age: Seconds(0),
        replica_refresh: Seconds(replica_refresh),
        snapshot_max_age: Seconds(2 * replica_refresh + random.pick(&[0, 0, 5, 30])),
        clock_skew: Seconds(if focus.tight { 6 } else { random.between(2, 6) }),
        verifier_leeway: Seconds(random.pick(&[0, 3, 10])),
        verify_window: None,
        max_token_ttl: Seconds(0),
        max_published: 0,
        max_set_bytes: 0,
        rsa_bits: RsaBits::Bits2048,
    };
    loop {
        change(random, &mut windows, focus);
        if let Ok(policy) = Policy::new(windows.clone()) {
            return policy;
        }
    }
}

/// What a new configuration may change.
fn change(random: &mut Random, windows: &mut Windows, focus: Focus) {
    // Whatever needs more is refused, and tried again with other numbers.
    let shortest = windows.replica_refresh * 2 + windows.verifier_cache + windows.clock_skew;
    let leads: &[i64] = match focus {
        Focus { tight: true, .. } => &[0],
        Focus { far_ahead: true, .. } => &[100, 200],
        _ => &[0, 0, 1, 20, 100],
    };
    let periods: &[i64] = match focus {
        Focus { shrinking: true, .. } => &[10, 1000],
        Focus { far_ahead: true, .. } => &[20, 60],
        _ => &[5, 10, 20, 60, 200],
    };
    windows.prepublish = shortest + Seconds(random.pick(leads));
    windows.rotation_period = Seconds(random.pick(periods));
    windows.max_token_ttl = Seconds(random.pick(&[3, 10, 30, 60]));
    if focus.far_ahead {
        windows.max_token_ttl = Seconds(random.pick(&[3, 60]));
    }
    windows.algorithms = algorithms(random);
    (windows.max_published, windows.max_set_bytes) = random.pick(&[(100, 1_000_000), (16, 8_192), (8, 4_000)]);
    if focus.crowded {
        (windows.max_published, windows.max_set_bytes) = (6, 4_000);
    }
}

fn changed(random: &mut Random, policy: &Policy, focus: Focus) -> Policy {
    let mut windows = policy.windows().clone();
    for _ in 0..20 {
        change(random, &mut windows, focus);
        (windows.max_published, windows.max_set_bytes) =
            (policy.windows().max_published, policy.windows().max_set_bytes);
        if let Ok(policy) = Policy::new(windows.clone()) {
            return policy;
        }
    }
    policy.clone()
}

/// Something happens to someone.
fn befall(world: &mut World) {
    let index = world.random.index(world.nodes.len());
    let windows = world.nodes[index].policy.windows().clone();
    let long = (windows.snapshot_max_age.0 + windows.prepublish.0) * 1000;
    let most = world.random.pick(&[1_000, windows.snapshot_max_age.0 * 1000, long]);
    let until = world.at + world.random.between(most / 2, most);
    let running = world.nodes[index].is_running();
    let node = &world.nodes[index];
    let told = node.reading(world.at).wall
        - node
            .snapshot
            .as_ref()
            .map_or(node.reading(world.at).wall, |snapshot| snapshot.loaded.wall);
    let sane = node.clock_right_at.is_none() && told >= Seconds::ZERO - windows.clock_skew;
    let favourites = world.without.focus().events;
    let kind = if favourites.is_empty() || world.random.once_in(2) {
        world.random.between(0, 20)
    } else {
        world.random.pick(favourites)
    };
    match kind {
        0 | 1 if running => {
            world.note(|_| format!("node {index} is cut off from the database until {until}"));
            world.nodes[index].cut_off_until = until;
        }
        2 => outage(world, until),
        3 if running => {
            world.note(|_| format!("node {index} is paused until {until}"));
            world.nodes[index].life = Life::Paused(until);
        }
        // Neither hand of a clock says how long a machine slept if its wall was wrong before: its monotonic clock stood still, and the
        // wall was set meanwhile. Until its next look such a node takes its old rows for new ones, as any server would.
        4 if running && sane && world.common_right_at.is_none() => suspend(world, index, until),
        5 if running => {
            world.note(|_| format!("node {index} crashes, until {until}"));
            let offset = clock(&mut world.random, world.band);
            let node = &mut world.nodes[index];
            node.forget();
            node.life = Life::Down(until);
            (node.offset, node.clock_right_at) = (offset, None);
        }
        6 => {
            let offset = clock(&mut world.random, world.band);
            if world.nodes[index].clock_right_at.is_none() {
                world.note(|_| format!("the clock of node {index} moves to {offset} ms"));
                world.nodes[index].offset = offset;
            }
        }
        7 if running => jump(world, index, until),
        8 | 9 => roll_out(world),
        10 => revoke(world, index),
        14 => common_jump(world, until),
        15 => start_on_wrong_clocks(world, until),
        16 => world.remove_algorithm(index),
        17 => world.keep_algorithm(index),
        18 => world.import_alias(index),
        19 if running && world.database.is_shared => {
            world.note(|_| format!("node {index} reads from a standby that gets nothing any more, until {until}"));
            let rows = (world.database.keys.clone(), world.database.version);
            world.nodes[index].standby = Some(rows);
            world.nodes[index].cut_off_until = until;
        }
        20 if world.clocks_are_right() => {
            let (keys, record) = (world.database.keys.clone(), world.database.record);
            match world.random.between(0, 4) {
                0 | 1 => revoke(world, index),
                2 => world.rotate_early(index),
                3 => world.import_alias(index),
                _ => world.remove_algorithm(index),
            }
            let refresh = windows.replica_refresh.0 * 1000;
            let at = world.at + world.random.between(1, 4 * refresh);
            world.loses = Some(Loss { at, keys, record });
        }
        _ => world.rotate_early(index),
    }
}

/// The database is away for everybody. Together with nodes that were cut off before, balancers that fail open would show
/// sets that no node vouches for: two faults at once are not promised.
fn outage(world: &mut World, until: i64) {
    let at = world.at;
    let refresh = world.nodes[0].policy.windows().replica_refresh.0 * 1000;
    // Nor is an outage that begins between a commit and its spreading, and outlasts the lead of the new key.
    let version = world.database.version;
    let fresh = world.nodes.iter().all(|node| {
        let current = node
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.version == version);
        node.is_running() && node.cut_off_until + refresh < at && current
    });
    if fresh {
        world.note(|_| format!("the database is down until {until}"));
        world.database.down_until = until;
    }
}

/// A machine sleeps: its monotonic clock does not count.
fn suspend(world: &mut World, index: usize, until: i64) {
    world.note(|_| format!("node {index} is suspended until {until}"));
    let length = until - world.at;
    let node = &mut world.nodes[index];
    node.life = Life::Paused(until);
    node.missed += length;
}

/// The database and all nodes are on one clock, and it is wrong for a while.
fn common_jump(world: &mut World, until: i64) {
    let skew = world.nodes[0].policy.windows().clock_skew.0 * 1000;
    let sign = world.random.pick(&[-1, 1]);
    let by = sign * world.random.pick(&[2 * skew, 20 * skew, 10_000_000, 1_000_000_000]);
    let at = world.at;
    let right = |node: &Node| {
        node.is_running() && node.cut_off_until <= at && node.clock_right_at.is_none() && node.trusted.is_some()
    };
    let is_up = world.database.down_until < world.at;
    if is_up && world.common_right_at.is_none() && world.nodes.iter().all(right) {
        world.set_common_clock(by, Some(until));
    }
}

/// All machines start on one clock that is wrong, and right again soon.
fn start_on_wrong_clocks(world: &mut World, until: i64) {
    let at = world.at;
    let all_in_touch = world
        .nodes
        .iter()
        .all(|node| node.is_running() && node.cut_off_until <= at);
    let is_calm = world.common_right_at.is_none() && world.database.down_until < at;
    if world.database.keys.is_empty() || !all_in_touch || !is_calm {
        return;
    }
    let restarted = world.at + world.random.between(0, 3000);
    for index in 0..world.nodes.len() {
        world.note(|_| format!("node {index} restarts"));
        let offset = clock(&mut world.random, world.band);
        let node = &mut world.nodes[index];
        node.forget();
        node.life = Life::Down(restarted);
        (node.offset, node.clock_right_at) = (offset, None);
    }
    let skew = world.nodes[0].policy.windows().clock_skew.0 * 1000;
    let sign = world.random.pick(&[-1, 1]);
    let by = sign * world.random.pick(&[2 * skew, 20 * skew, 10_000_000, 1_000_000_000]);
    world.set_common_clock(by, Some(until));
}

/// A clock leaves its band, by a little or by a lot, until someone puts it right.
fn jump(world: &mut World, index: usize, until: i64) {
    let skew = world.nodes[index].policy.windows().clock_skew.0 * 1000;
    let sign = world.random.pick(&[-1, 1]);
    let small = if world.database.is_shared { skew / 2 } else { 3 * skew };
    let by = sign
        * world
            .random
            .pick(&[small, 2 * skew, 20 * skew, 10_000_000, 1_000_000_000]);
    let node = &mut world.nodes[index];
    // A clock that is wrong at the first look cannot be told from a right one.
    if node.clock_right_at.is_none() && node.trusted.is_some() {
        node.offset += by;
        node.clock_right_at = Some(until);
        world.note(|_| format!("the clock of node {index} jumps by {by} ms until {until}"));
    }
}

/// A new configuration reaches the nodes one after the other, each by a restart.
fn roll_out(world: &mut World) {
    if world
        .nodes
        .iter()
        .any(|node| node.next_policy.is_some() || node.clock_right_at.is_some())
    {
        return;
    }
    let policy = changed(&mut world.random, &world.nodes[0].policy, world.without.focus());
    world.note(|_| format!("a new policy: {policy:?}"));
    for node in &mut world.nodes {
        node.next_policy = Some(policy.clone());
    }
}

fn revoke(world: &mut World, index: usize) {
    let keys = world.database.keys.clone();
    let now = Database::time(world.at);
    let active = |alg| keys.active(alg, now).map(|key| key.kid.clone());
    let kids: Vec<Kid> = match world.random.between(0, 3) {
        0 => Algorithm::ALL.into_iter().filter_map(active).collect(),
        1 => keys.jwks().map(|(jwk, _)| jwk.kid.clone()).collect::<Vec<_>>(),
        _ => active(world.random.pick(&Algorithm::ALL)).into_iter().collect(),
    };
    let all = kids.len() <= 2;
    let chosen = if all || kids.is_empty() {
        kids
    } else {
        vec![kids[world.random.index(kids.len())].clone()]
    };
    for kid in chosen {
        world.revoke(index, &kid);
    }
}

/// While nothing changes for anybody, time passes at once.
fn skip_quiet_time(world: &mut World) {
    let (at, database) = (world.at, &world.database);
    let now = Database::time(at);
    let margin = world
        .nodes
        .iter()
        .map(|node| node.policy.windows().clock_skew * 2 + node.policy.propagation())
        .max();
    let margin = margin.unwrap_or(Seconds::ZERO) + Seconds(2);
    let quiet = world.common_right_at.is_none()
        && world.nodes.iter().all(|node| {
            let current = node
                .snapshot
                .as_ref()
                .is_some_and(|snapshot| snapshot.version == database.version);
            let undisturbed = node.next_policy.is_none() && node.clock_right_at.is_none() && node.in_flight.is_empty();
            current && undisturbed && node.able_since.is_some() && node.planned_version == Some(database.version)
        });
    if !quiet {
        return;
    }
    let mut next = None;
    for node in &world.nodes {
        let policy = &node.policy;
        let changes = database.keys.iter().flat_map(|key| {
            let destroyed = plan::destruction_due(&database.keys, policy, key, now);
            [Some(key.activates_at), database.keys.expires_at(key, policy), destroyed]
        });
        let inserts = plan::continued(&database.keys, policy)
            .into_iter()
            .map(|alg| plan::next_generation(&database.keys, policy, alg, now).map(|next| next.due_at));
        for time in changes.chain(inserts).flatten().filter(|&time| time > now - margin) {
            next = Some(next.map_or(time, |next: keyround::clock::UnixTime| next.min(time)));
        }
    }
    let target = next.map_or(at, |next| (next - margin).0 * 1000);
    if target > at + 1000 {
        world.at = target;
        world.note(|_| "time passes".to_owned());
        for index in 0..world.nodes.len() {
            world.nodes[index].load(&mut world.database, target, world.without);
        }
    }
}
