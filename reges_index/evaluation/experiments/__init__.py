"""The paper's tables and figures as named experiments, each with the paper's value beside ours."""
