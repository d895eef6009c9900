"""`python -m langgraph_checkpoint_dual` is the command line `langgraph-dual`."""

from langgraph_checkpoint_dual.cli import main

if __name__ == "__main__":
    main()
