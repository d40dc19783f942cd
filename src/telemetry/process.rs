//! What Prometheus' client libraries tell of every process, under their names.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

type Float = Gauge<f64, AtomicU64>;

/// The process as the system sees it, read when somebody asks.
#[derive(Default)]
pub(super) struct ProcessMetrics {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    started_at: Float,
    threads: Gauge,
}

impl ProcessMetrics {
    /// Registers them without a prefix: dashboards know these names.
    pub fn register(&self, registry: &mut Registry) {
        let cpu = "Processor time that was used, by the program and by the system for it";
        registry.register_with_unit("process_cpu", cpu, Unit::Seconds, self.cpu.clone());
        registry.register_with_unit(
            "process_resident_memory",
            "Memory that is held",
            Unit::Bytes,
            self.resident.clone(),
        );
        registry.register_with_unit(
            "process_virtual_memory",
            "Memory that is addressed",
            Unit::Bytes,
            self.virtual_memory.clone(),
        );
        registry.register("process_open_fds", "Open files and sockets", self.open_files.clone());
        registry.register(
            "process_max_fds",
            "The most files and sockets that may be open",
            self.max_files.clone(),
        );
        registry.register_with_unit(
            "process_start_time",
            "When the process started",
            Unit::Seconds,
            self.started_at.clone(),
        );
        registry.register("process_threads", "Threads", self.threads.clone());
    }

    /// Reads them anew. Where the system tells nothing, they stay.
    pub fn look(&self) {
        if let Some(stat) = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .as_deref()
            .and_then(read_stat)
        {
            let ticks = precise(clock_ticks_per_second().max(1));
            // Nobody else writes it.
            self.cpu
                .inner()
                .store((precise(stat.cpu_ticks) / ticks).to_bits(), Ordering::Relaxed);
            let page = u64::try_from(page_size()).unwrap_or(4096);
            self.resident.set(count(stat.resident_pages.saturating_mul(page)));
            self.virtual_memory.set(count(stat.virtual_bytes));
            self.threads.set(count(stat.threads));
            if let Some(booted_at) = boot_time() {
                self.started_at
                    .set(precise(booted_at) + precise(stat.started_ticks) / ticks);
            }
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // The folder itself is one of them.
            let open = files.count().saturating_sub(1);
            self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        self.max_files
            .set(getrlimit(Resource::Nofile).current.map_or(i64::MAX, count));
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// Reads `/proc/PID/stat` (proc(5)); the name of the program, in parentheses, may hold anything.
fn read_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The first of these is the third of the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?,
        started_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

fn boot_time() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "ticks and seconds fit into the 52 bits")]
const fn precise(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_anything() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 7 5 0 0 20 0 9 0 1234 1000000 250 18446744073709551615 1";
        let stat = Stat {
            cpu_ticks: 12,
            threads: 9,
            started_ticks: 1234,
            virtual_bytes: 1_000_000,
            resident_pages: 250,
        };
        for name in ["keyround", "a b) 1 2 (c"] {
            assert_eq!(read_stat(&format!("42 ({name}) {rest}")), Some(stat.clone()));
        }
        assert_eq!(read_stat("42 (x) S 1"), None);
    }
}
