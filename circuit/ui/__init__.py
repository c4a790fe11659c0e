"""What several pages share: the job server, what a session remembers, the page frame, and the job panel."""
