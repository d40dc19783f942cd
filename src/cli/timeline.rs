//! `keys timeline`: every key's life as a picture, a pure function of (keys, policy, now).
//!
//! SVG without scripts and fonts of its own, so that any browser shows it and a page may embed it as an image.

use std::fmt::Write;

use crate::clock::{Seconds, UnixTime};
use crate::jose::jwk::Kid;
use crate::keys::SigningKey;
use crate::keys::history::{expires_at, retires_at};
use crate::keys::lifecycle::Keys;
use crate::keys::plan::{continued, next_generation};
use crate::keys::policy::Policy;
use crate::keys::state::State;
use crate::keys::verifying::VerifyingKey;

use super::output::coarse;

const WIDTH: i64 = 1120;
/// Where the chart begins; the names of the keys stand left of it.
const LEFT: i64 = 300;
const RIGHT: i64 = WIDTH - 30;
const TOP: i64 = 98;
const GROUP: i64 = 30;
const ROW: i64 = 46;
const BAR: i64 = 20;
/// No more labels on the axis than this.
const LABELS: i64 = 7;

const STYLE: &str = "\
text{font-family:system-ui,'Segoe UI','DejaVu Sans',sans-serif;font-size:12px;fill:#1f2933}\
.heading{font-size:16px;font-weight:600}.group{font-size:13px;font-weight:600}\
.kid{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:10px}.faint{fill:#616e7c}\
.inside{font-size:11px;text-anchor:middle}.tick{text-anchor:middle;fill:#616e7c}\
.pending{fill:#f7d070}.active{fill:#7bc49b}.retired{fill:#bcccdc}\
.grid{stroke:#e4e7eb}.now{stroke:#d64545;stroke-width:1.5;stroke-dasharray:5 3}.nowtext{fill:#ba2525;text-anchor:middle}\
.mark{fill:#ffffff;stroke:#1f2933;stroke-width:1.5}.full{fill:#1f2933}.end{stroke:#1f2933;stroke-width:2.5}\
.cross{stroke:#ba2525;stroke-width:3}";

/// Draws the keys. The rows that only mark the removal of an algorithm have no life and are left out.
pub fn draw(keys: &Keys, policy: &Policy, now: UnixTime) -> String {
    let lives: Vec<Life> = keys
        .iter()
        .filter(|key| !key.is_keyless())
        .map(|key| Life::of(keys, policy, now, key))
        .collect();
    let axis = Axis::around(&lives, keys, policy, now);
    let mut rows = String::new();
    let mut y = TOP;
    let mut group = None;
    for life in &lives {
        if group != Some(life.key.alg) {
            group = Some(life.key.alg);
            y += GROUP;
            put(
                &mut rows,
                format_args!(r#"<text class="group" x="16" y="{}">{}</text>"#, y - 8, life.key.alg),
            );
        }
        draw_life(&mut rows, &axis, life, y);
        y += ROW;
    }
    for (place, key) in keys.verifying().iter().enumerate() {
        if place == 0 {
            y += GROUP;
            put(
                &mut rows,
                format_args!(r#"<text class="group" x="16" y="{}">to verify with</text>"#, y - 8),
            );
        }
        draw_verifying(&mut rows, &axis, key, policy, now, y);
        y += ROW;
    }
    let height = y + 40;
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
        ),
    );
    put(
        &mut svg,
        format_args!(
            "<title>The lives of {} signing keys, seen at {now}</title>",
            lives.len() + keys.verifying().len()
        ),
    );
    put(&mut svg, format_args!("<style>{STYLE}</style>"));
    put(
        &mut svg,
        format_args!(r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##),
    );
    put(
        &mut svg,
        format_args!(r#"<text class="heading" x="16" y="28">Signing keys</text>"#),
    );
    draw_legend(&mut svg);
    draw_axis(&mut svg, &axis, y);
    svg.push_str(&rows);
    draw_now(&mut svg, &axis, y);
    svg.push_str("</svg>\n");
    svg
}

/// Appends a line.
fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(svg, "{line}");
}

/// One key's times. A revocation ends a life: nothing that would have come after it is drawn.
struct Life<'a> {
    key: &'a SigningKey,
    state: State,
    activates_at: Option<UnixTime>,
    retires_at: Option<UnixTime>,
    expires_at: Option<UnixTime>,
}

impl<'a> Life<'a> {
    fn of(keys: &Keys, policy: &Policy, now: UnixTime, key: &'a SigningKey) -> Self {
        let came = |at: &UnixTime| key.revoked_at.is_none_or(|revoked_at| *at <= revoked_at);
        let superseded_at = keys.superseded_at(key);
        // A pending key that was outranked never signs.
        let signs = superseded_at.is_none_or(|superseded_at| superseded_at > key.activates_at);
        let activates_at = Some(key.activates_at)
            .filter(came)
            .filter(|_| signs || key.revoked_at.is_some());
        let retires_at = retires_at(keys, key);
        Self {
            key,
            state: keys.state(key, policy, now),
            activates_at,
            retires_at,
            expires_at: expires_at(keys, policy, key),
        }
    }

    /// The last time that is known of it.
    fn end(&self) -> Option<UnixTime> {
        self.key
            .revoked_at
            .filter(|_| self.expires_at.is_none())
            .or(self.expires_at)
    }

    /// The parts of its life that take time: state, from, to. The last one is open when nothing ends it yet.
    fn parts(&self) -> Vec<(State, UnixTime, Option<UnixTime>)> {
        let end = self.end();
        let mut parts = vec![(
            State::Pending,
            self.key.published_at,
            self.activates_at.or(self.retires_at).or(end),
        )];
        if let Some(activates_at) = self.activates_at {
            parts.push((State::Active, activates_at, self.retires_at.or(end)));
        }
        if let Some(retires_at) = self.retires_at {
            parts.push((State::Retired, retires_at, end));
        }
        // A key that signed at once was stamped active before it was published, and was never pending.
        parts.retain(|&(_, from, to)| to.is_none_or(|to| to > from));
        parts
    }

    fn marks(&self) -> Vec<(Mark, UnixTime)> {
        [
            (Mark::Publication, Some(self.key.published_at)),
            (Mark::Activation, self.activates_at),
            (Mark::Retirement, self.retires_at),
            (Mark::Expiry, self.expires_at),
            (Mark::Revocation, self.key.revoked_at),
        ]
        .into_iter()
        .filter_map(|(mark, at)| Some((mark, at?)))
        .collect()
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Publication,
    Activation,
    Retirement,
    Expiry,
    Revocation,
}

impl Mark {
    const ALL: [Self; 5] = [
        Self::Publication,
        Self::Activation,
        Self::Retirement,
        Self::Expiry,
        Self::Revocation,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Publication => "published",
            Self::Activation => "activated",
            Self::Retirement => "retired",
            Self::Expiry => "expired",
            Self::Revocation => "revoked",
        }
    }

    /// The mark with its middle at this place.
    fn draw(self, svg: &mut String, x: i64, y: i64) {
        let (left, right, up, down) = (x - 5, x + 5, y - 5, y + 5);
        match self {
            Self::Publication => put(svg, format_args!(r#"<circle class="mark" cx="{x}" cy="{y}" r="4.5"/>"#)),
            Self::Activation => {
                put(
                    svg,
                    format_args!(r#"<path class="mark full" d="M{left} {up}L{right} {y}L{left} {down}Z"/>"#),
                );
            }
            Self::Retirement => put(
                svg,
                format_args!(
                    r#"<rect class="mark" x="{}" y="{}" width="8" height="8"/>"#,
                    x - 4,
                    y - 4
                ),
            ),
            Self::Expiry => put(
                svg,
                format_args!(
                    r#"<path class="end" d="M{x} {}V{}"/>"#,
                    y - BAR / 2 - 2,
                    y + BAR / 2 + 2
                ),
            ),
            Self::Revocation => put(
                svg,
                format_args!(r#"<path class="cross" d="M{left} {up}L{right} {down}M{left} {down}L{right} {up}"/>"#),
            ),
        }
    }
}

/// Opens the group of a row and writes its name and, below it, what it is.
fn begin_row(svg: &mut String, kid: &Kid, state: State, what: &str, y: i64) {
    let kid = escape(&kid.to_string());
    put(svg, format_args!("<g><title>{kid}: {state}</title>"));
    put(
        svg,
        format_args!(r#"<text class="kid" x="16" y="{}">{kid}</text>"#, y + 8),
    );
    put(
        svg,
        format_args!(r#"<text class="faint" x="16" y="{}">{what}</text>"#, y + 23),
    );
}

fn draw_life(svg: &mut String, axis: &Axis, life: &Life<'_>, y: i64) {
    let key = life.key;
    let middle = y + BAR / 2;
    let what = format!("generation {}, {}", key.generation, life.state);
    begin_row(svg, &key.kid, life.state, &what, y);
    for (state, from, to) in life.parts() {
        draw_part(svg, axis, state, (from, to), y);
    }
    for (mark, at) in life.marks() {
        mark.draw(svg, axis.x(at), middle);
    }
    svg.push_str("</g>\n");
}

/// A key that never signs: one bar from its publication to its end.
fn draw_verifying(svg: &mut String, axis: &Axis, key: &VerifyingKey, policy: &Policy, now: UnixTime, y: i64) {
    let state = key.state(policy, now);
    let (end, mark) = match key.revoked_at {
        Some(at) => (at, Mark::Revocation),
        None => (key.leaves_at(policy), Mark::Expiry),
    };
    begin_row(
        svg,
        &key.jwk.kid,
        state,
        &format!("{}, imported, {state}", key.jwk.alg),
        y,
    );
    draw_part(svg, axis, State::Retired, (key.published_at, Some(end)), y);
    let middle = y + BAR / 2;
    Mark::Publication.draw(svg, axis.x(key.published_at), middle);
    mark.draw(svg, axis.x(end), middle);
    svg.push_str("</g>\n");
}

fn draw_part(svg: &mut String, axis: &Axis, state: State, (from, to): (UnixTime, Option<UnixTime>), y: i64) {
    let start = axis.x(from);
    let end = to.map_or(RIGHT, |to| axis.x(to));
    let width = (end - start).max(1);
    put(
        svg,
        format_args!(r#"<rect class="{state}" x="{start}" y="{y}" width="{width}" height="{BAR}"/>"#),
    );
    if to.is_none() {
        // Nothing ends it yet: an arrow's head instead of an edge.
        put(
            svg,
            format_args!(
                r#"<path class="{state}" d="M{end} {y}l10 {}l-10 {}Z"/>"#,
                BAR / 2,
                BAR / 2
            ),
        );
    }
    let label = to.map_or_else(|| state.to_string(), |to| format!("{state} {}", coarse(to - from)));
    let needed = i64::try_from(label.len()).unwrap_or(i64::MAX).saturating_mul(6) + 22;
    if width >= needed {
        let middle = i64::midpoint(start, end);
        put(
            svg,
            format_args!(r#"<text class="inside" x="{middle}" y="{}">{label}</text>"#, y + 14),
        );
    }
}

fn draw_legend(svg: &mut String) {
    let mut x = 16;
    for state in [State::Pending, State::Active, State::Retired] {
        put(
            svg,
            format_args!(r#"<rect class="{state}" x="{x}" y="42" width="26" height="14"/>"#),
        );
        let told = match state {
            State::Pending => "pending: published, not signing yet",
            State::Active => "active: signs",
            _ => "retired: still published, for the tokens it signed",
        };
        put(svg, format_args!(r#"<text x="{}" y="53">{told}</text>"#, x + 32));
        x += 62 + i64::try_from(told.len()).unwrap_or(0) * 6;
    }
    let mut x = 16 + 13;
    for mark in Mark::ALL {
        let middle = 74;
        mark.draw(svg, x, middle);
        put(
            svg,
            format_args!(r#"<text x="{}" y="78">{}</text>"#, x + 14, mark.name()),
        );
        x += 98;
    }
}

fn draw_axis(svg: &mut String, axis: &Axis, bottom: i64) {
    for at in axis.ticks() {
        let x = axis.x(at);
        put(
            svg,
            format_args!(r#"<path class="grid" d="M{x} {}V{bottom}"/>"#, TOP + 6),
        );
        put(
            svg,
            format_args!(
                r#"<text class="tick" x="{x}" y="{}">{}</text>"#,
                bottom + 18,
                axis.label(at)
            ),
        );
    }
}

fn draw_now(svg: &mut String, axis: &Axis, bottom: i64) {
    let x = axis.x(axis.now);
    put(
        svg,
        format_args!(r#"<path class="now" d="M{x} {}V{bottom}"/>"#, TOP + 6),
    );
    // Kept within the picture near its right edge.
    let middle = x.min(WIDTH - 90);
    put(
        svg,
        format_args!(
            r#"<text class="nowtext" x="{middle}" y="{}">now, {}</text>"#,
            TOP + 2,
            axis.now
        ),
    );
}

/// From time to place.
struct Axis {
    from: UnixTime,
    to: UnixTime,
    now: UnixTime,
}

impl Axis {
    /// Wide enough for every life, for now, and for the next rotation of an active key.
    fn around(lives: &[Life<'_>], keys: &Keys, policy: &Policy, now: UnixTime) -> Self {
        let starts = lives
            .iter()
            .flat_map(|life| [Some(life.key.published_at), life.activates_at]);
        let ends = lives
            .iter()
            .flat_map(|life| [life.end(), life.activates_at, life.retires_at]);
        let next = continued(keys, policy)
            .into_iter()
            .filter_map(|alg| next_generation(keys, policy, alg, now));
        let verifying_end = |key: &VerifyingKey| key.revoked_at.unwrap_or_else(|| key.leaves_at(policy));
        let ends = ends
            .flatten()
            .chain(next.map(|next| next.generation.activates_at))
            .chain(keys.verifying().iter().map(verifying_end));
        let starts = starts
            .flatten()
            .chain(keys.verifying().iter().map(|key| key.published_at));
        let from = starts.fold(now, UnixTime::min);
        let to = ends.fold(now, UnixTime::max);
        let margin = Seconds(((to - from).0 / 40).max(1));
        Self {
            from: from - margin,
            to: to + margin,
            now,
        }
    }

    fn x(&self, at: UnixTime) -> i64 {
        let length = i128::from((self.to - self.from).0.max(1));
        let place = i128::from((at - self.from).0) * i128::from(RIGHT - LEFT) / length;
        LEFT + i64::try_from(place).unwrap_or(0).clamp(0, RIGHT - LEFT)
    }

    /// Round lengths, in seconds; beyond them, years.
    fn step(&self) -> i64 {
        const ROUND: [i64; 22] = [
            1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000,
            1_728_000, 4_320_000, 8_640_000, 17_280_000,
        ];
        let length = (self.to - self.from).0;
        let year = 31_536_000;
        let years = (length / year / LABELS + 1) * year;
        ROUND.into_iter().find(|step| length / step < LABELS).unwrap_or(years)
    }

    fn ticks(&self) -> impl Iterator<Item = UnixTime> + use<> {
        let (step, to) = (self.step(), self.to);
        let first = UnixTime(self.from.0.div_euclid(step) * step + step);
        (0..=LABELS)
            .map(move |count| first + Seconds(step) * count)
            .filter(move |&at| at < to)
    }

    /// Days by their date; less than a day with the time as well.
    fn label(&self, at: UnixTime) -> String {
        let text = at.rfc3339();
        let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or(&text).to_owned();
        match self.step() {
            86_400.. => part(0..10),
            60.. => format!("{} {}", part(5..10), part(11..16)),
            _ => part(11..19),
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::jose::key::RsaBits;
    use std::path::Path;

    use super::*;
    use crate::jose::alg::Algorithm;
    use crate::jose::jwk::{KeyParameters, PublicJwk};
    use crate::keys::policy::Windows;

    const DAY: Seconds = Seconds(86_400);
    /// 2026-11-01T00:00:00Z
    const START: UnixTime = UnixTime(1_793_491_200);

    /// Windows whose proportions can be seen.
    fn policy() -> Policy {
        Policy::new(Windows {
            algorithms: vec![Algorithm::Rs256],
            rotation_period: DAY * 10,
            prepublish: DAY * 4,
            verifier_cache: Seconds(1_800),
            jwks_max_age: Seconds(300),
            replica_refresh: Seconds(5),
            snapshot_max_age: Seconds(30),
            clock_skew: Seconds(60),
            verifier_leeway: Seconds(300),
            verify_window: None,
            max_token_ttl: DAY * 8,
            max_published: 16,
            max_set_bytes: 8192,
            rsa_bits: RsaBits::Bits2048,
        })
        .unwrap()
    }

    fn key(name: &str, alg: Algorithm, generation: i64, activates_at: UnixTime) -> SigningKey {
        let kid: Kid = name.parse().unwrap();
        let (n, e) = ("sample".to_owned(), "AQAB".to_owned());
        SigningKey {
            jwk: Some(PublicJwk {
                kid: kid.clone(),
                alg,
                parameters: KeyParameters::Rsa { n, e },
            }),
            kid,
            alg,
            generation,
            published_at: activates_at - DAY * 4,
            activates_at,
            prepublish: DAY * 4,
            max_token_ttl: DAY * 8,
            revoked_at: None,
            has_private_half: true,
        }
    }

    /// A retired, an active and a pending key.
    fn sample() -> Vec<SigningKey> {
        let names = ["the-first-key", "the-second-key", "the-third-key"];
        (1..)
            .zip(names)
            .map(|(generation, name)| key(name, Algorithm::Rs256, generation, START + DAY * 10 * (generation - 1)))
            .collect()
    }

    #[test]
    fn the_committed_picture_is_the_one_that_is_drawn() {
        let drawn = draw(&Keys::new(sample()), &policy(), START + DAY * 17);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(folder.join("docs/key-life.svg")).unwrap_or_default();
        if drawn != committed {
            std::fs::write(folder.join("target/key-life.svg"), &drawn).unwrap();
            panic!(
                "docs/key-life.svg is not what the code draws: look at target/key-life.svg, and copy it if it is right"
            );
        }
    }

    #[test]
    fn every_key_has_a_row_and_what_never_came_is_not_drawn() {
        let mut keys = sample();
        keys[2].revoked_at = Some(START + DAY * 17);
        keys.push(key("other-line", Algorithm::Es256, 1, START));
        let svg = draw(&Keys::new(keys), &policy(), START + DAY * 18);
        for name in [
            "the-first-key",
            "the-second-key",
            "the-third-key",
            "other-line",
            "ES256",
            "generation 3, revoked",
        ] {
            assert!(svg.contains(name), "{name} is missing");
        }
        // Published, but neither activated nor retired.
        let rows: Vec<&str> = svg.split("<g>").collect();
        let revoked = rows.iter().find(|row| row.contains("the-third-key")).unwrap();
        assert!(revoked.contains("cross") && revoked.contains("circle"));
        assert!(!revoked.contains(r#"class="active""#) && !revoked.contains(r#"class="mark full""#));
    }

    #[test]
    fn any_span_of_time_has_a_few_labels_within_it() {
        for length in [1, 7, 90, 4_000, 86_400, 86_400 * 40, 86_400 * 4_000] {
            let axis = Axis {
                from: START,
                to: START + Seconds(length),
                now: START,
            };
            let ticks = axis.ticks().count();
            assert!(i64::try_from(ticks).unwrap() <= LABELS, "{length}: {ticks}");
            assert!(length < 7 || ticks >= 2, "{length}: {ticks}");
        }
    }

    #[test]
    fn no_key_at_all_is_a_picture_too() {
        let svg = draw(&Keys::default(), &policy(), START);
        assert!(svg.ends_with("</svg>\n") && svg.contains("now, 2026-11-01"));
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape(r#"<a href="&">"#), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
