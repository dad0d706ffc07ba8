//! The command line: one file per subcommand; builds the parts and joins them.
