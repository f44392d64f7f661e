//! Hints and kept topics: the embedded log and JetStream behind one port.
