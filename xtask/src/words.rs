//! Words that must not be in this repository: paths of one machine, and the addresses of package registries, which
//! are a machine's own affair.

use std::{fs, process::Command};

const WORDS: [&str; 9] = [
    "/opt/wheels",
    "/root/",
    "/work/",
    "\"resolved\":",
    "files.pythonhosted.org",
    "index-url",
    "pypi.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
];

/// This list itself.
const EXEMPT: &str = "xtask/src/words.rs";

pub(crate) fn faults() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).output().expect("git is there, and this is a checkout");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8_lossy(&output.stdout);
    let mut faults = Vec::new();
    for path in files.split('\0').filter(|path| !path.is_empty() && *path != EXEMPT) {
        // Gone from the working tree, or not text: nothing to read.
        let Ok(text) = fs::read_to_string(path) else { continue };
        faults.extend(faults_in(path, &text));
    }
    faults
}

fn faults_in(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        faults.extend(
            WORDS.iter().filter(|word| line.contains(**word)).map(|word| format!("{path}:{number}: has {word}")),
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_one_machine_is_found_with_its_line() {
        assert_eq!(faults_in("a.md", "fine\nsee /root/x"), ["a.md:2: has /root/"]);
    }
}
