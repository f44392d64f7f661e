//! Words that must not be in this repository: paths of one machine, and the addresses of package registries, which
//! are a machine's own affair.

use std::{fs, process::Command};

/// In two parts each, so that this list is not found by itself.
const WORDS: [&str; 8] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("\"resol", "ved\":"),
    concat!("index", "-url"),
    concat!("pythonhosted", ".org"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
    concat!("yarnpkg", ".com"),
];

pub(crate) fn faults() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).output().expect("git is there, and this is a checkout");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8_lossy(&output.stdout);
    let mut faults = Vec::new();
    for path in files.split('\0').filter(|path| !path.is_empty()) {
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
        let text = format!("fine\nsee {}x", WORDS[0]);
        assert_eq!(faults_in("a.md", &text), [format!("a.md:2: has {}", WORDS[0])]);
    }
}
