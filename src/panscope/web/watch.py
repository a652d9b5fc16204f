"""The progress page and its route."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from panscope.web.api import Run
from panscope.web.pages import page
from panscope.web.problem import FAILURES
from panscope.web.progress import ProgressView

router = APIRouter(responses=FAILURES)


@router.get("/api/progress", tags=["progress"])
def progress(run: Run) -> ProgressView:
    """Say what the run's stages are doing."""
    return run.progress.view()


@router.get("/progress", include_in_schema=False, response_class=HTMLResponse)
def progress_page(request: Request, run: Run) -> HTMLResponse:
    """Show what the run's stages are doing; the page asks again every second."""
    return page(request, "progress.html", run_name=run.folder.resolve().name)
