"""CNI plugins: one file each, callable in process and as executables."""
