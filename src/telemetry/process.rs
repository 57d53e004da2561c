//! What the process itself uses, by the names that Prometheus's own clients have for it. The library's collector counts
//! processor time in whole seconds, and asks `/proc/stat` for the start, which a service under systemd's `ProcSubset=pid` does
//! not see.

use std::{
    fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Counter, Gauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// Seconds since 1970 when this was first asked for, at the start.
static STARTED: LazyLock<f64> = LazyLock::new(|| {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
});

/// Looks whenever it is asked.
pub(super) struct Process {
    cpu: Counter,
    resident: Gauge,
    size: Gauge,
    threads: Gauge,
    open_files: Gauge,
    most_files: Gauge,
    started: Gauge,
}

impl Process {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let made = Self {
            cpu: Counter::new("process_cpu_seconds_total", "Processor time, of user and system")?,
            resident: Gauge::new("process_resident_memory_bytes", "Memory that is held")?,
            size: Gauge::new("process_virtual_memory_bytes", "Addresses that are taken")?,
            threads: Gauge::new("process_threads", "Threads")?,
            open_files: Gauge::new("process_open_fds", "Open file descriptors")?,
            most_files: Gauge::new("process_max_fds", "File descriptors that may be open")?,
            started: Gauge::new("process_start_time_seconds", "When it started, since 1970")?,
        };
        made.started.set(*STARTED);
        Ok(made)
    }

    /// What cannot be read stays as it was.
    fn look(&self) {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, gauge, unit) in [
            ("VmRSS:", &self.resident, 1024.0),
            ("VmSize:", &self.size, 1024.0),
            ("Threads:", &self.threads, 1.0),
        ] {
            if let Some(value) = field(&status, name) {
                gauge.set(value * unit);
            }
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One of them is that of the folder.
            self.open_files.set(files.count().saturating_sub(1) as f64);
        }
        let most = getrlimit(Resource::Nofile).current;
        self.most_files.set(most.map_or(f64::INFINITY, |most| most as f64));
    }
}

/// A number in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges =
            [&self.resident, &self.size, &self.threads, &self.open_files, &self.most_files];
        let gauges = gauges.into_iter().chain([&self.started]).flat_map(Collector::desc);
        self.cpu.desc().into_iter().chain(gauges).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        let gauges =
            [&self.resident, &self.size, &self.threads, &self.open_files, &self.most_files];
        let gauges = gauges.into_iter().chain([&self.started]).flat_map(Collector::collect);
        self.cpu.collect().into_iter().chain(gauges).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_uses_is_told_and_is_of_the_right_size() {
        let process = Process::new().unwrap();
        let told = |name: &str| {
            let families = process.collect();
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            // It is the one or the other; what it is not is 0.
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        let before = told("process_cpu_seconds_total");
        let busy = std::time::Instant::now();
        while told("process_cpu_seconds_total") - before < 0.01 {
            assert!(busy.elapsed().as_secs() < 20, "no time passes");
        }

        let mib = 1024.0 * 1024.0;
        let resident = told("process_resident_memory_bytes");
        assert!(resident > mib && resident < told("process_virtual_memory_bytes"), "{resident}");
        assert!(told("process_threads") >= 2.0, "this test and the one that waits for it");
        let open = told("process_open_fds");
        let _file = fs::File::open("/proc/self/status").unwrap();
        assert!(open >= 3.0 && told("process_max_fds") > open);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - told("process_start_time_seconds");
        assert!((0.0..3600.0).contains(&age), "{age}");
        assert_eq!(process.desc().len(), process.collect().len());
    }
}
