//! What changes while a guest runs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use xeno_model::desired::Publish;
use xeno_model::id::SliverId;
use xeno_model::observed::{Ability, DomainState, Limits};
use xeno_qemu::QemuDriver;
use xeno_reconciler::ports::{DomainSpec, Grace, Hypervisor, PortResult, Retry, Tuning};
use xeno_test_support::free_port;

use crate::lab::{Lab, until};

fn tuning(memory_mib: u64, publish: &[(u16, u16)]) -> Tuning {
    let port = |&(guest, host): &(u16, u16)| Publish { guest, host };
    Tuning {
        vcpus: 1,
        memory_mib,
        limits: Limits::default(),
        publish: publish.iter().map(port).collect(),
    }
}

fn check(result: PortResult<()>, retry: Retry, words: &str) {
    let error = result.unwrap_err();
    assert!(error.what.contains(words) && error.retry == retry, "{error:?}");
}

/// Memory that the guest has free, in MiB, as its own kernel says.
async fn free_mib(lab: &Lab, spec: &DomainSpec) -> u64 {
    let said = || {
        let console = lab.console(spec);
        let whole = console.rfind('\n').map_or("", |end| &console[..end]);
        let lines = whole
            .lines()
            .filter_map(|line| line.trim().strip_prefix("TEST free "));
        lines
            .filter_map(|kib| kib.parse::<u64>().ok())
            .collect::<Vec<_>>()
    };
    let before = said().len();
    lab.type_line(spec, "memory");
    until("how much memory is free", async || said().len() > before).await;
    said().pop().unwrap() / 1024
}

fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page.trim().to_owned()).filter(|page| !page.is_empty())
}

#[tokio::test]
async fn memory_and_ports_change_while_a_guest_runs() {
    let mut lab = Lab::new();
    let mut spec = lab.spec("web/0");
    let sliver: SliverId = spec.sliver.clone();
    let (kept, first, second) = (free_port(), free_port(), free_port());
    (spec.memory_mib, spec.memory_max_mib) = (160, 256);
    spec.publish = tuning(0, &[(81, kept), (80, first)]).publish;
    lab.driver.boot(&spec).await.unwrap();
    lab.console_says(&spec, "TEST ready").await;
    let seen = lab.observe().await.ours.remove(&sliver).unwrap();
    assert_eq!((seen.memory_mib, seen.memory_max_mib), (160, 256));
    // Its kernel has found 256 MiB, of which the balloon takes 96.
    until("the balloon to grow", async || free_mib(&lab, &spec).await < 160).await;

    let stream = TcpStream::connect(("127.0.0.1", kept)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut echo = |line: &str| {
        writeln!(&stream, "{line}").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), line);
    };
    echo("a connection");

    // More memory and another port. What the agent that comes next sees is what was accepted.
    let wanted = tuning(256, &[(81, kept), (80, second)]);
    lab.driver.retune(&sliver, &wanted).await.unwrap();
    lab.driver.retune(&sliver, &wanted).await.unwrap();
    lab.restart();
    let seen = lab.observe().await.ours.remove(&sliver).unwrap();
    assert_eq!((seen.memory_mib, &seen.publish), (256, &wanted.publish));
    until("the balloon to shrink", async || {
        free_mib(&lab, &spec).await > 170
    })
    .await;
    assert!(
        TcpStream::connect(("127.0.0.1", first)).is_err(),
        "the old port still answers"
    );
    until("the page at the new port", async || {
        page(second).as_deref() == Some("TEST page")
    })
    .await;
    echo("the same connection");

    // Less again, and a port that somebody else has: what can be changed is, and what is observed is so.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap().port();
    let wanted = tuning(160, &[(81, kept), (80, second), (80, taken)]);
    check(
        lab.driver.retune(&sliver, &wanted).await,
        Retry::Later,
        &format!("port {taken} of this node is in use"),
    );
    let mut seen = lab.observe().await.ours.remove(&sliver).unwrap();
    seen.publish.sort();
    let mut is = tuning(0, &[(81, kept), (80, second)]).publish;
    is.sort();
    assert_eq!((seen.memory_mib, seen.publish), (160, is));
    until("the balloon to grow again", async || {
        free_mib(&lab, &spec).await < 160
    })
    .await;
    drop(stranger);
    lab.driver.retune(&sliver, &wanted).await.unwrap();
    echo("still the same connection");

    for (wrong, words) in [
        (tuning(257, &[]), "160 to 256"),
        (tuning(160, &[(80, kept), (81, kept)]), "published twice"),
    ] {
        let words = words.replace("160 to 256", "64 to 256 MiB without a reboot");
        check(lab.driver.retune(&sliver, &wrong).await, Retry::Never, &words);
    }

    // Memory and ports outlive a suspend, and a resume can come with others.
    lab.driver.suspend(&sliver).await.unwrap();
    let image = lab.observe().await.images.remove(&sliver).unwrap();
    assert_eq!((image.memory_mib, image.memory_max_mib), (160, 256));
    lab.driver.seal_image(&sliver, &spec.boot).await.unwrap();
    (spec.memory_mib, spec.publish) = (192, tuning(0, &[(80, first)]).publish);
    lab.driver.resume(&spec).await.unwrap();
    let seen = lab.observe().await.ours.remove(&sliver).unwrap();
    assert_eq!(
        (seen.state, seen.memory_mib, seen.memory_max_mib),
        (DomainState::Running, 192, 256)
    );
    until("the page at the first port", async || {
        page(first).as_deref() == Some("TEST page")
    })
    .await;
    lab.driver.shutdown(&sliver, Grace { ms: 0 }).await.unwrap();
    check(
        lab.driver.retune(&sliver, &wanted).await,
        Retry::Later,
        "has no domain",
    );
}

/// A control group for this test, where the machine has one that can be divided.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let name = format!("xeno-test-{}", std::process::id());
        let roots = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
        roots.iter().find_map(|root| {
            let dir = Path::new(root).join(&name);
            fs::create_dir(&dir).ok()?;
            let has_cpu = dir.join("cpu.shares").exists()
                || fs::read_to_string(dir.join("cgroup.controllers")).is_ok_and(|all| all.contains("cpu"));
            let group = Self(dir);
            has_cpu.then_some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn shares_of_the_processors_are_kept_where_there_is_a_group_for_them() {
    let mut lab = Lab::new();
    let mut config = Lab::config_in(lab.dir.path());
    let group = Group::new();
    match &group {
        Some(group) => config.cgroup = Some(group.0.clone()),
        None => println!("no control group can be made here: only that this is said is tested"),
    }
    lab.driver = QemuDriver::new(config).unwrap();
    let is_able = lab.observe().await.able.contains(&Ability::CpuCap);
    let facts = lab.driver.facts().await;
    let fact = facts.iter().find(|fact| fact.name == "cpu limits").unwrap();
    println!("{}", fact.what);
    if group.is_none() {
        assert_eq!(is_able, fact.what.starts_with("weight and cap are kept"));
        return;
    }
    assert!(is_able);
    let mut spec = lab.spec("web/0");
    let limits = |cpu_weight, cpu_cap_percent| Limits {
        cpu_weight,
        cpu_cap_percent,
        net_rate: None,
    };
    spec.limits = limits(512, Some(50));
    lab.driver.boot(&spec).await.unwrap();
    let seen = async || lab.observe().await.ours[&spec.sliver].limits;
    assert_eq!(seen().await, limits(512, Some(50)));
    let other = Tuning {
        limits: limits(300, None),
        ..tuning(128, &[])
    };
    lab.driver.retune(&spec.sliver, &other).await.unwrap();
    assert_eq!(seen().await, other.limits);
    // Somebody else turns it: seen as what it is now.
    let dir = group.as_ref().unwrap().0.join("xeno-web-0");
    let (file, value) = match dir.join("cpu.shares").exists() {
        true => ("cpu.shares", "4096"),
        false => ("cpu.weight", "400"),
    };
    fs::write(dir.join(file), value).unwrap();
    assert_eq!(seen().await, limits(1024, None));
    lab.driver.shutdown(&spec.sliver, Grace { ms: 0 }).await.unwrap();
    assert!(!dir.exists(), "its group is still there");
}
