"""What pages are made of: `frame` (every page), `prompts` (page 1), `run` (pages 2 to 7), `lessons` (page 8), and the
glossary.

Only here, in `pages/` and in `app.py` is Streamlit imported. It imports all other rooms.
"""
