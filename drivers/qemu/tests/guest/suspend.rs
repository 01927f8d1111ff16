//! Suspend and resume with a real guest, and what may die in between.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use xeno_model::id::{Digest, DomainUuid};
use xeno_model::observed::DomainState;
use xeno_qemu::QemuDriver;
use xeno_reconciler::ports::{DomainSpec, Grace, Hypervisor, PortResult, Retry};

use crate::lab::{Lab, kill, until};

/// The numbers that the guest has counted aloud; the last line may not be whole.
pub(crate) fn counted(console: &str) -> Vec<u64> {
    let whole = console.rfind('\n').map_or("", |end| &console[..end]);
    let numbers = whole
        .lines()
        .filter_map(|line| line.trim().strip_prefix("TEST count "));
    // The echo of what is typed may come before the end of the line.
    let digits = |number: &str| {
        number
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    };
    numbers.filter_map(|number| digits(number).parse().ok()).collect()
}

/// The guest has counted on, past what it had, without a hole and nothing twice: it is the same one, and the only one.
pub(crate) async fn counts_on(lab: &Lab, spec: &DomainSpec) {
    let before = counted(&lab.console(spec)).len();
    until("further numbers", async || {
        counted(&lab.console(spec)).len() > before + 3
    })
    .await;
    let numbers = counted(&lab.console(spec));
    let expected: Vec<u64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
}

pub(crate) async fn boot_id(lab: &Lab, spec: &DomainSpec) -> String {
    let ids = || {
        let console = lab.console(spec);
        let ids = console
            .lines()
            .filter_map(|line| line.trim().strip_prefix("TEST boot id "));
        ids.filter(|id| id.len() == 36)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = ids().len();
    lab.type_line(spec, "who");
    until("the guest's boot id", async || ids().len() > before).await;
    ids().pop().unwrap()
}

pub(crate) async fn counting_guest(lab: &Lab, sliver: &str) -> DomainSpec {
    let spec = lab.spec(sliver);
    lab.driver.boot(&spec).await.unwrap();
    lab.console_says(&spec, "TEST ready").await;
    lab.type_line(&spec, "count");
    counts_on(lab, &spec).await;
    spec
}

fn check<T: std::fmt::Debug>(result: PortResult<T>, retry: Retry, words: &str) {
    let error = result.unwrap_err();
    assert!(error.what.contains(words) && error.retry == retry, "{error:?}");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    all
}

fn mark() -> Digest {
    Digest::of(b"the disk as it was")
}

#[tokio::test]
async fn a_suspended_guest_goes_on_where_it_was() {
    let mut lab = Lab::new();
    let spec = counting_guest(&lab, "web/0").await;
    let sliver = &spec.sliver;
    let images = lab.dir.path().join("images/web-0");
    let id = boot_id(&lab, &spec).await;
    let pid = lab.pid(&spec);

    check(
        lab.driver.seal_image(sliver, &mark()).await,
        Retry::Never,
        "has no image",
    );
    let start = Instant::now();
    lab.driver.suspend(sliver).await.unwrap();
    println!("suspended in {:?}", start.elapsed());
    assert_eq!(lab.state(&spec).await, None);
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "its QEMU is still there"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&images), 0o700);
    for file in files(&images) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    let seen = lab.observe().await.images;
    assert_eq!(
        (seen[sliver].boot, seen[sliver].uuid, seen[sliver].mark),
        (spec.boot, spec.uuid, None)
    );
    assert!(seen[sliver].bytes > 1 << 20, "{seen:?}");

    // The agent goes, and another one comes. What is so already is success; what does not fit is refused, and stays.
    lab.restart();
    lab.driver.suspend(sliver).await.unwrap();
    check(lab.driver.boot(&spec).await, Retry::Never, "has an image");
    check(lab.driver.resume(&spec).await, Retry::Never, "is not sealed");
    lab.driver.seal_image(sliver, &mark()).await.unwrap();
    lab.driver.seal_image(sliver, &mark()).await.unwrap();
    let other = Digest::of(b"another disk");
    check(
        lab.driver.seal_image(sliver, &other).await,
        Retry::Never,
        "another state of its disk",
    );
    for (wrong, words) in [
        (
            DomainSpec {
                boot: other,
                ..spec.clone()
            },
            "another kernel",
        ),
        (
            DomainSpec {
                uuid: DomainUuid([9; 16]),
                ..spec.clone()
            },
            "another domain",
        ),
    ] {
        check(lab.driver.resume(&wrong).await, Retry::Never, words);
    }
    assert_eq!(lab.observe().await.images[sliver].mark, Some(mark()));

    let start = Instant::now();
    lab.driver.resume(&spec).await.unwrap();
    println!("resumed in {:?}", start.elapsed());
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
    assert_eq!(lab.observe().await.ours[sliver].booted, spec.boot);
    counts_on(&lab, &spec).await;
    assert_eq!(boot_id(&lab, &spec).await, id);
    assert!(files(&images).is_empty(), "the image was not consumed");
    // It runs: asking again changes nothing. Once it is gone, nothing is left to be resumed.
    lab.driver.resume(&spec).await.unwrap();
    counts_on(&lab, &spec).await;
    lab.driver.shutdown(sliver, Grace { ms: 0 }).await.unwrap();
    check(lab.driver.resume(&spec).await, Retry::Never, "has no image");
    check(lab.driver.suspend(sliver).await, Retry::Later, "has no domain");
}

/// The disk cannot take the memory: QEMU fails in the middle of it.
#[tokio::test]
async fn a_guest_whose_memory_cannot_be_stored_goes_on() {
    let mut lab = Lab::new();
    // No file of this QEMU may have more than 8 MiB.
    let wrapper = lab.dir.path().join("qemu");
    let script = "#!/bin/sh\ntrap '' XFSZ\nulimit -f 16384\nexec qemu-system-x86_64 \"$@\"\n";
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700)).unwrap();
    let mut config = Lab::config_in(lab.dir.path());
    config.qemu_binary = Some(wrapper);
    lab.driver = QemuDriver::new(config).unwrap();

    let spec = counting_guest(&lab, "web/0").await;
    let failed = lab.driver.suspend(&spec.sliver).await;
    check(failed, Retry::Later, "cannot be stored, and it goes on running");
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
    counts_on(&lab, &spec).await;
    assert!(files(&lab.dir.path().join("images/web-0")).is_empty());
}

/// Starts to suspend a guest so slowly that there is time to look, and waits until some memory has been written.
async fn slow_suspend(lab: &Lab, spec: &DomainSpec) -> tokio::task::JoinHandle<PortResult<()>> {
    let mut config = Lab::config_in(lab.dir.path());
    config.image_rate = Some(1 << 20);
    let (driver, sliver) = (QemuDriver::new(config).unwrap(), spec.sliver.clone());
    let suspending = tokio::spawn(async move { driver.suspend(&sliver).await });
    let images = lab.dir.path().join("images/web-0");
    let begun = async || {
        files(&images)
            .iter()
            .any(|file| file.metadata().unwrap().len() > 0)
    };
    until("the start of an image", begun).await;
    suspending
}

#[tokio::test]
async fn a_suspend_that_is_cut_off_leaves_a_guest_or_nothing() {
    let mut lab = Lab::new();
    let spec = counting_guest(&lab, "web/0").await;
    let sliver = &spec.sliver;

    // The agent dies in the middle. Its guest stands still, and there is no image; either way on is open.
    let suspending = slow_suspend(&lab, &spec).await;
    assert_eq!(lab.state(&spec).await, Some(DomainState::Paused));
    suspending.abort();
    let _ = suspending.await;
    lab.restart();
    assert!(lab.observe().await.images.is_empty());
    lab.driver.unpause(sliver).await.unwrap();
    counts_on(&lab, &spec).await;

    let suspending = slow_suspend(&lab, &spec).await;
    suspending.abort();
    let _ = suspending.await;
    lab.driver.suspend(sliver).await.unwrap();
    lab.driver.seal_image(sliver, &mark()).await.unwrap();
    lab.driver.resume(&spec).await.unwrap();
    counts_on(&lab, &spec).await;

    // QEMU dies in the middle: as with a power failure the guest is gone, and half an image is none.
    let suspending = slow_suspend(&lab, &spec).await;
    kill(lab.pid(&spec));
    suspending.await.unwrap().unwrap_err();
    assert_eq!(lab.state(&spec).await, None);
    assert!(lab.observe().await.images.is_empty());
    assert!(files(&lab.dir.path().join("images/web-0")).is_empty());
    lab.driver.boot(&spec).await.unwrap();
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
}

/// Carries out a call, gives it up after a moment, and lets another agent carry it out to its end.
async fn cut_off(lab: &mut Lab, after: Duration, call: impl AsyncFn(&QemuDriver) -> PortResult<()>) {
    let _ = tokio::time::timeout(after, call(&lab.driver)).await;
    lab.restart();
    let again = async || match call(&lab.driver).await {
        Ok(()) => true,
        // What had been begun on the disk goes to its end, and a QEMU that is slow to answer is asked again: as an
        // agent does with whatever may pass.
        Err(error) if error.retry == Retry::Later => false,
        Err(error) => panic!("{error:?}"),
    };
    until("the end of what was cut off", again).await;
}

/// Wherever a suspend or resume is cut off, the same guest is there in the end, once.
#[tokio::test]
async fn a_cut_off_anywhere_neither_loses_nor_forks_the_guest() {
    let mut lab = Lab::new();
    let spec = counting_guest(&lab, "web/0").await;
    for moment in 1..=5 {
        cut_off(&mut lab, Duration::from_millis(40 * moment), async |driver| {
            driver.suspend(&spec.sliver).await
        })
        .await;
        assert_eq!(lab.state(&spec).await, None);
        cut_off(&mut lab, Duration::from_millis(moment), async |driver| {
            driver.seal_image(&spec.sliver, &mark()).await
        })
        .await;
        cut_off(&mut lab, Duration::from_millis(90 * moment), async |driver| {
            driver.resume(&spec).await
        })
        .await;
        counts_on(&lab, &spec).await;
    }
}

#[tokio::test]
async fn an_image_that_a_guest_may_have_gone_on_from_is_never_used_again() {
    let lab = Lab::new();
    let spec = counting_guest(&lab, "web/0").await;
    let sliver = &spec.sliver;
    lab.driver.suspend(sliver).await.unwrap();
    lab.driver.seal_image(sliver, &mark()).await.unwrap();
    // As a power failure leaves it between the rename and the guest's first step.
    let images = lab.dir.path().join("images/web-0");
    fs::rename(images.join("image.json"), images.join("resuming.json")).unwrap();
    assert!(lab.observe().await.images.is_empty());
    check(lab.driver.resume(&spec).await, Retry::Never, "not resumed twice");
    lab.driver.boot(&spec).await.unwrap();
    assert!(files(&images).is_empty());
    lab.driver.shutdown(sliver, Grace { ms: 0 }).await.unwrap();

    // A damaged image is shown as one that cannot be used, and goes when it is discarded.
    fs::create_dir_all(&images).unwrap();
    fs::write(images.join("image.json"), "{").unwrap();
    assert_eq!(lab.observe().await.images[sliver].mark, None);
    check(lab.driver.resume(&spec).await, Retry::Never, "is of no use");
    check(lab.driver.boot(&spec).await, Retry::Never, "is of no use");
    lab.driver.discard_image(sliver).await.unwrap();
    lab.driver.discard_image(sliver).await.unwrap();
    assert!(lab.observe().await.images.is_empty());
}
