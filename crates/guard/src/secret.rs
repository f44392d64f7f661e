//! Words that must not be printed: passwords, tokens, keys. Wiped from memory when dropped.

pub use secrecy::{ExposeSecret, SecretString as Secret};

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Holder {
        #[expect(dead_code, reason = "printed by Debug")]
        name: String,
        password: Secret,
    }

    #[test]
    fn a_struct_that_holds_a_secret_does_not_print_it() {
        let holder: Holder = serde_json::from_str(r#"{"name":"db","password":"hunter2"}"#).unwrap();
        assert_eq!(holder.password.expose_secret(), "hunter2");
        let printed = format!("{holder:?} {holder:#?} {:?}", Some(&holder.password));
        assert!(printed.contains("db") && !printed.contains("hunter2"), "{printed}");
    }
}
