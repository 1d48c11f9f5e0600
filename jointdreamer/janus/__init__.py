"""The Janus meter: how many faces an asset has, and where.

views = views_of(Path("outputs/demo/a_blue_cat"))
verdict = judge(views.frames, views.azimuths_deg)
draw_verdict(views.frames, views.azimuths_deg, verdict, "janus.png")
"""

from .picture import draw_verdict
from .verdict import Limits, Verdict, judge
from .views import Views, views_of

__all__ = ["Limits", "Verdict", "Views", "draw_verdict", "judge", "views_of"]
