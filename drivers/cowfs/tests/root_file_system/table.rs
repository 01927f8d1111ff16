//! Which test answers which demand, and that the test is there under that name.
//!
//! The demands were measured at other servers (nfs-ganesha and unfs3 over kernel overlayfs, a server made with a library)
//! or read in the source of an older copy-on-write server. Paths are below the crate; `tests/posix` and
//! `tests/tests/overlayfs` of the workspace ask most of these again, through a real client and against the kernel.

use std::path::Path;

/// A demand, and pairs of a file or directory and a test in it.
type Row = (&'static str, &'static [(&'static str, &'static str)]);

const BEHAVIOUR: &str = "tests/root_file_system/behaviour.rs";
const COST: &str = "tests/root_file_system/cost.rs";
/// Everything below it: files there are split as they grow.
const STACK: &str = "src/stack/tests";
const DISK: &str = "tests/wire/disk.rs";
const HOSTILE: &str = "tests/wire/hostile.rs";
const PROCEDURES: &str = "tests/wire/procedures.rs";
const TENANCY: &str = "tests/wire/tenancy.rs";

const TABLE: &[Row] = &[
    (
        "LINK, and MKNOD of every kind",
        &[
            (PROCEDURES, "every_kind_of_object_can_be_made"),
            (PROCEDURES, "names_move_and_multiply"),
            (
                BEHAVIOUR,
                "every_kind_of_object_can_be_made_and_outlives_a_restart",
            ),
        ],
    ),
    (
        "MKDIR takes a mode, SETATTR an owner",
        &[
            (BEHAVIOUR, "mkdir_takes_mode_and_owner"),
            (PROCEDURES, "attributes_access_and_guard"),
        ],
    ),
    (
        "one SETATTR with mode 4755 and owner keeps setuid",
        &[
            (BEHAVIOUR, "mode_and_owner_in_one_setattr_keep_setuid"),
            (STACK, "a_change_of_owner_clears_setuid_even_for_root"),
        ],
    ),
    (
        "exclusive CREATE may be retried",
        &[
            (PROCEDURES, "exclusive_create_can_be_repeated"),
            (STACK, "exclusive_create_may_be_retried"),
            (STACK, "an_exclusive_create_is_known_again_until_the_file_changes"),
        ],
    ),
    (
        "WRITE unstable, COMMIT and its verifier tell the truth",
        &[
            (STACK, "what_was_not_committed_may_go_but_shows_nothing_else"),
            (STACK, "after_a_failed_sync_nothing_is_acknowledged"),
            (DISK, "handles_content_and_outcomes_outlive_a_restart"),
        ],
    ),
    (
        "handles follow a rename: of a file, of what is below a directory",
        &[(BEHAVIOUR, "handles_and_numbers_follow_a_rename_and_a_restart")],
    ),
    (
        "handles of removed and remade files are stale for ever",
        &[(STACK, "a_removed_object_is_stale_for_ever")],
    ),
    (
        "another user: READ and WRITE refused, and ACCESS says so",
        &[
            (
                BEHAVIOUR,
                "another_user_does_not_read_write_or_hear_that_they_may",
            ),
            (PROCEDURES, "attributes_access_and_guard"),
        ],
    ),
    (
        "what a caller makes is the caller's",
        &[(BEHAVIOUR, "what_a_user_makes_is_theirs")],
    ),
    (
        "READDIR while what was listed is removed: 100,000 entries, none twice, none lost",
        &[
            (STACK, "a_huge_directory_lists_everything_once_while_it_changes"),
            (STACK, "cookies_outlive_a_restart"),
            (STACK, "many_listings_of_a_directory_that_others_change"),
        ],
    ),
    (
        "a retransmitted REMOVE is answered from memory",
        &[
            (HOSTILE, "a_retransmission_is_answered_and_not_run_again"),
            (HOSTILE, "a_late_retransmission_undoes_nothing_that_came_between"),
            (STACK, "a_call_is_remembered_over_a_restart"),
        ],
    ),
    (
        "RMDIR of what is not empty, REMOVE of a directory, names of 256 bytes",
        &[(BEHAVIOUR, "each_refusal_has_its_number")],
    ),
    (
        "names with `/`, NUL or `..` lead nowhere",
        &[
            (HOSTILE, "names_that_cannot_be"),
            (BEHAVIOUR, "each_refusal_has_its_number"),
        ],
    ),
    (
        "handles outlive restart, remount and epoch",
        &[
            (DISK, "handles_content_and_outcomes_outlive_a_restart"),
            (STACK, "everything_survives_a_restart"),
            (BEHAVIOUR, "handles_and_numbers_follow_a_rename_and_a_restart"),
        ],
    ),
    (
        "copy-up changes neither handle nor number, and the old handle sees the write",
        &[(STACK, "copy_up_changes_neither_handle_nor_hard_links")],
    ),
    (
        "no handle can be forged, none opens another's export",
        &[
            (HOSTILE, "forged_handles_lead_nowhere"),
            (STACK, "handles_of_another_stack_are_refused"),
            (TENANCY, "another_clients_export_is_as_good_as_absent"),
        ],
    ),
    (
        "mistake 1: nothing is called durable that is not",
        &[
            (STACK, "every_prefix_of_the_log_is_a_state_that_was"),
            (STACK, "after_a_failed_sync_nothing_is_acknowledged"),
        ],
    ),
    (
        "mistake 2: identity never follows from the path",
        &[(BEHAVIOUR, "handles_and_numbers_follow_a_rename_and_a_restart")],
    ),
    (
        "mistake 3: a directory of a template is renamed with all that is in it, for the price of one",
        &[(COST, "a_whole_tree_is_renamed_for_the_price_of_one_directory")],
    ),
    (
        "mistake 4: a removed directory leaves no marks behind",
        &[
            (BEHAVIOUR, "a_removed_directory_leaves_nothing_behind"),
            (STACK, "files_that_nothing_refers_to_are_swept"),
        ],
    ),
    (
        "mistake 5: a failed copy-up masks nothing",
        &[(STACK, "a_full_disk_leaves_nothing_half_done")],
    ),
    (
        "mistake 6: copy-up keeps owner and times",
        &[(
            BEHAVIOUR,
            "a_group_members_write_changes_neither_owner_nor_what_it_should_not",
        )],
    ),
    (
        "mistake 7: hard links and special files of a template stay what they are",
        &[
            (BEHAVIOUR, "names_of_one_template_file_stay_one_file"),
            (
                BEHAVIOUR,
                "special_files_of_a_template_are_changed_linked_renamed_and_removed",
            ),
        ],
    ),
    (
        "mistake 8: no name is the server's own",
        &[
            (STACK, "names_that_look_like_whiteouts_are_names"),
            (PROCEDURES, "mount_protocol"),
        ],
    ),
    (
        "mistake 9: a byte costs a block, whatever the file's length; a truncation reads nothing",
        &[
            (
                COST,
                "one_byte_costs_the_same_in_a_kibibyte_a_gibibyte_and_a_tebibyte",
            ),
            (COST, "a_truncation_reads_nothing"),
            (STACK, "a_byte_here_and_there_costs_what_it_takes"),
        ],
    ),
    (
        "chown -R of a template copies no data",
        &[(COST, "a_whole_template_changes_hands_without_copying_data")],
    ),
    (
        "mistake 10: many callers at once, strangers among them",
        &[
            (STACK, "threads_change_one_stack_together"),
            (DISK, "many_changes_at_once_all_arrive"),
            (
                HOSTILE,
                "a_client_that_does_not_read_its_replies_stalls_only_itself",
            ),
        ],
    ),
];

/// All Rust source in a file or below a directory.
fn source(path: &Path) -> String {
    if !path.is_dir() {
        return std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let mut all = String::new();
    for entry in std::fs::read_dir(path).expect("listing") {
        all.push_str(&source(&entry.expect("listing").path()));
    }
    all
}

#[test]
fn every_demand_has_its_tests() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (demand, tests) in TABLE {
        assert!(!tests.is_empty(), "{demand}");
        for (place, test) in *tests {
            let text = source(&crate_dir.join(place));
            let (before, _) = text
                .split_once(&format!("fn {test}("))
                .unwrap_or_else(|| panic!("{demand}: no {test} in {place}"));
            let attribute = before.trim_end().trim_end_matches("async").trim_end();
            assert!(
                attribute.ends_with("test]"),
                "{demand}: {test} in {place} is no test"
            );
        }
    }
}
