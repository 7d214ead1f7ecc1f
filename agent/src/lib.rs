//! The agent: kernel, files, network, command line.
