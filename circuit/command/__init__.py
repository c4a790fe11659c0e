"""The command line: what pages and Python do, from a terminal or a script.

It stands beside `ui`, and imports neither it nor Streamlit; every other room it may.
"""
