//! What a process costs, read from `/proc` (Linux).

use std::fs;
use std::time::Duration;

/// A living process, by its id.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// Time on a processor.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// In the program's own code.
    pub user: Duration,
    /// In the kernel, on its behalf.
    pub system: Duration,
}

impl Usage {
    /// Both together.
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

impl Process {
    fn read(self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.0)).expect("a living process")
    }

    /// A number of its status; sizes (`VmRSS:`, `VmHWM:`) are in KiB.
    pub fn status(self, key: &str) -> u64 {
        value(&self.read("status"), key)
    }

    /// Time on a processor so far, in ticks of 10 ms each.
    pub fn usage(self) -> Usage {
        let stat = self.read("stat");
        // The name before the parenthesis may hold anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks: Vec<u64> =
            fields.split(' ').skip(12).take(2).map(|field| field.parse().unwrap_or(0)).collect();
        let [user, system] = ticks[..] else { panic!("user and system time: {stat}") };
        Usage { user: Duration::from_millis(user * 10), system: Duration::from_millis(system * 10) }
    }

    /// Descriptors that it has open.
    pub fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).expect("a living process of ours").count()
    }

    /// What each thread shows in a file of its own.
    fn threads(self, name: &str) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).expect("a living process");
        // A thread may be gone by the time its file is read.
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join(name)).ok()).collect()
    }

    /// Time on a processor, finer than the ticks of [`Process::usage`]. Without threads that have ended.
    pub fn on_cpu(self) -> Duration {
        let nanos = |stat: &String| stat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
        Duration::from_nanos(self.threads("schedstat").iter().map(nanos).sum())
    }

    /// How often a thread went to sleep of its own will, and so was woken.
    pub fn wakeups(self) -> u64 {
        self.threads("status").iter().map(|status| value(status, "voluntary_ctxt_switches:")).sum()
    }

    /// The peak of resident memory (`VmHWM:`) is counted anew from here.
    pub fn forget_peak(self) {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").expect("a living process of ours");
    }
}

fn value(status: &str, key: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).unwrap_or(0)
}
